"""Regions and questions come from different files; here they meet by image id."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic

import numpy as np

from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.sources.image_names import Image
from adaptive_ft.errors import UserError

QuestionsByImage = Mapping[str, Sequence[Question]]


class Join(Generic[Image]):
    """The images of `regions`, read or not, that somebody asks about, with their questions, one in memory at a time.

    After the iteration `images_without_questions` and `questions_without_regions` say what was left out.
    Questions without regions are an error at the end of the iteration (UserError) unless
    `allow_missing_regions`.
    """

    def __init__(
        self,
        regions: Iterable[Image],
        questions: QuestionsByImage,
        *,
        allow_missing_regions: bool = False,
    ) -> None:
        self._regions: Iterable[Image] = regions
        self._questions = questions
        self._allow_missing_regions = allow_missing_regions
        self.images_without_questions = 0
        self.questions_without_regions = 0

    def __iter__(self) -> Iterator[Image]:
        self.images_without_questions = 0
        waiting, unasked = set(self._questions), ""
        for record in self._regions:
            if record.image_id not in self._questions:
                self.images_without_questions += 1
                unasked = unasked or f"; there are regions of '{record.image_id}', which nobody asks about"
            elif record.image_id not in waiting:
                raise UserError(f"image '{record.image_id}' comes a second time ({record.origin}); remove one of them")
            else:
                waiting.remove(record.image_id)
                yield replace(record, questions=tuple(self._questions[record.image_id]))
        self.questions_without_regions = sum(len(self._questions[name]) for name in waiting)
        if waiting and not self._allow_missing_regions:
            first = next(name for name in self._questions if name in waiting)
            raise UserError(
                f"{self.questions_without_regions} questions are about {len(waiting)} images without "
                f"regions, first '{first}'{unasked}: the files are cut, of another split or named otherwise"
                " (docs/data.md). Add the missing features, or leave such questions out with --allow_missing_features."
            )


def any_answer(questions: QuestionsByImage) -> bool:
    """Whether a question is answered; if none is, the split is a test split."""
    return any(question.answers or question.scores for asked in questions.values() for question in asked)


def records_without_regions(questions: QuestionsByImage) -> Iterator[ImageRecord]:
    """Images known only by their questions, for training that is blind to the picture.

    No regions (N = 0), and a size of 1 x 1 because question files do not give it.
    """
    for image_id, asked in questions.items():
        yield ImageRecord(
            image_id=image_id,
            width=1,
            height=1,
            boxes=np.empty((0, 4), dtype=np.float32),
            features=np.empty((0, 0), dtype=np.float32),
            questions=tuple(asked),
        )
