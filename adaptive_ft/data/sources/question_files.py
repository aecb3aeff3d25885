"""The options by which a person names question files, and their reading."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from adaptive_ft.data.records import Question
from adaptive_ft.data.sources.gqa_json import gqa_questions
from adaptive_ft.data.sources.lxmert_json import lxmert_questions
from adaptive_ft.data.sources.question_store import QuestionStore
from adaptive_ft.data.sources.vqa_json import vqa_questions
from adaptive_ft.errors import UserError


@dataclass
class QuestionFiles:
    """Official VQA v2 files (questions, annotations), LXMERT's JSON or GQA's; plain or gzip, one or several."""

    questions: tuple[Path, ...] = ()
    """Official question files."""
    annotations: tuple[Path, ...] = ()
    """Official annotation files of the same splits, in the same order; none for a test split without answers."""
    lxmert_json: tuple[Path, ...] = ()
    """LXMERT's question files (VQA, GQA), instead of the two above: train.json nominival.json."""
    gqa_json: tuple[Path, ...] = ()
    """GQA's question files, or the folder of parts of one, instead of those above."""
    coco_split: str | None = None
    """COCO split of the image names, for files that do not say it: train2014, val2014, test2015."""

    def read(self) -> QuestionStore:
        """Questions by image id, those of several files together.

        Raises:
            UserError: no file or files of several kinds were named, two files ask the same question, or what the
                readers raise.
        """
        if sum(map(bool, (self.questions, self.lxmert_json, self.gqa_json))) != 1:
            raise UserError(
                "Name the questions in one form: --source.questions (with --source.annotations), "
                "--source.lxmert_json or --source.gqa_json."
            )
        if self.annotations and len(self.annotations) != len(self.questions):
            raise UserError(
                f"--source.annotations names {len(self.annotations)} files and --source.questions "
                f"{len(self.questions)}: give one for each, in the same order."
            )
        return QuestionStore(self._parts())

    def _parts(self) -> Iterator[tuple[Path, Iterator[tuple[str, Question]]]]:
        for questions, annotations in zip_longest(self.questions, self.annotations):
            yield questions, vqa_questions(questions, annotations, coco_split=self.coco_split)
        for path in self.lxmert_json:
            yield path, lxmert_questions(path)
        for path in self.gqa_json:
            yield path, gqa_questions(path)
