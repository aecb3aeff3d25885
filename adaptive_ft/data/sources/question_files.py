"""The options by which a person names question files, and their reading."""

from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.data.sources.join import QuestionsByImage
from adaptive_ft.data.sources.lxmert_json import read_lxmert_json
from adaptive_ft.data.sources.vqa_json import read_vqa_json
from adaptive_ft.errors import UserError


@dataclass
class QuestionFiles:
    """Official VQA v2 files (questions, annotations) or LXMERT's JSON; plain or gzip."""

    questions: Path | None = None
    """Official question file."""
    annotations: Path | None = None
    """Official annotation file of the same split; none for a test split without answers."""
    lxmert_json: Path | None = None
    """LXMERT's question file, instead of the two above."""
    coco_split: str | None = None
    """COCO split of the image names, for files that do not say it: train2014, val2014, test2015."""

    def read(self) -> QuestionsByImage:
        """Questions by image id.

        Raises:
            UserError: no file or files of both kinds were named, or what the readers raise.
        """
        if (self.questions is None) == (self.lxmert_json is None):
            raise UserError(
                "Name the questions: either --source.questions (with --source.annotations) or --source.lxmert_json."
            )
        if self.lxmert_json is not None:
            return read_lxmert_json(self.lxmert_json)
        assert self.questions is not None
        return read_vqa_json(self.questions, self.annotations, coco_split=self.coco_split)

    @property
    def answered(self) -> bool:
        """Whether answers are expected: official questions without annotations are a test split."""
        return self.annotations is not None or self.lxmert_json is not None
