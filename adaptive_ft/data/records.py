"""What sources hand to the shard writer and shards hand back: questions, and images with their questions.

Shape suffixes: N regions (boxes) of one image, D feature size, 4 = x1 y1 x2 y2.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.errors import UserError

ANSWERS_PER_QUESTION = 10
# The one key in `scores` of a question whose answers all lie outside its source's answer table, which differs
# from being unanswered. No processed answer can be spelt like it, so nothing ever matches it.
OUTSIDE_TABLE = "<outside the table>"
SHOWN_CLASSES = 10  # in the message about a label that is none of them
BOX_TOLERANCE_PX = 1.0  # detectors round boxes at the border; more than this is another picture's box
# A tar name holds 100 characters, and WebDataset splits a sample's key from its member at the first dot.
SMALLEST_SIDE_PX = 2  # a picture up to here may lie in the first pixel
_IMAGE_ID = re.compile(r"[\x21-\x7e]{1,80}")
_FORBIDDEN_IN_ID = frozenset("./\\")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one image.

    `answers` are the raw answers of ten people, or none (source gives only scores, or the split is
    unanswered). `scores` maps a processed answer to its soft score in (0, 1]; a source may leave it empty
    when it has the ten answers: the shard writer fills it, so a question read from shards always has its
    scores.
    """

    question_id: int
    text: str
    question_type: str
    answer_type: str
    answers: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image, its regions and all questions about it.

    `boxes` [N,4] float32 x1 y1 x2 y2 in pixels of a `width` x `height` picture, `features` [N,D] float16 or
    float32; N = 0 where no regions are known. `picture` is an encoded PNG or JPEG file. `origin` says where
    the record was read (file and line) and serves messages only.
    """

    image_id: str
    width: int
    height: int
    boxes: NDArray[np.float32]
    features: NDArray[np.floating]
    questions: tuple[Question, ...]
    picture: bytes | None = None
    origin: str = ""


class PendingImage(Protocol):
    """What of an image is known before it is read; an ImageRecord, which is read, knows it too."""

    @property
    def image_id(self) -> str:
        """The image's name."""

    @property
    def questions(self) -> tuple[Question, ...]:
        """All questions about it."""

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""


def validate_record(record: ImageRecord, *, answered: bool = True) -> None:
    """Check everything a shard promises about an image, in one place.

    `answered=False` declares a split without public answers (a test split).
    Raises UserError naming the image, the question and the origin of the record.
    """
    try:
        _check_identity(record)
        _check_regions(record)
        _check_questions(record.questions, answered)
    except UserError as error:
        raise UserError(f"{told(record)}: {error}") from None


def label_question(number: int, label: str) -> Question:
    """The question whose answer is a picture's label."""
    return Question(
        question_id=number, text="label", question_type="label", answer_type="label", answers=(), scores={label: 1.0}
    )


def labelled_picture(
    image_id: str, number: int, label: str, picture: bytes, size: tuple[int, int], origin: str = ""
) -> ImageRecord:
    """A picture of `size` (width, height) with its label: an image without regions, and one question answered by it.

    Classes are then an answer table, the score of an answer is 1 or 0, and nothing downstream needs a second form.
    """
    return ImageRecord(
        image_id=image_id,
        width=size[0],
        height=size[1],
        boxes=np.empty((0, 4), dtype=np.float32),
        features=np.empty((0, 0), dtype=np.float32),
        questions=(label_question(number, label),),
        picture=picture,
        origin=origin,
    )


def validate_labelled_picture(record: ImageRecord, classes: Collection[str]) -> None:
    """Check what a valid record promises besides in a set of labelled pictures: pixels, and one label of `classes`.

    Raises UserError naming the image and the origin of the record.
    """
    labels = [answer for question in record.questions for answer in question.scores]
    if record.picture is None or len(record.boxes) or len(record.questions) != 1 or len(labels) > 1:
        raise UserError(f"{told(record)}: a labelled picture has pixels, no regions, and one question with one answer")
    for label in labels:
        if label not in classes:
            raise UserError(
                f"{told(record)}: its label '{label}' is none of the classes: {_shown(classes)}; correct it, or add it:"
                " write all sets with --answers FILE, a JSON list of the classes, in place of --like"
            )


def _shown(classes: Collection[str]) -> str:
    """The first classes, in words."""
    shown = ", ".join(f"'{name}'" for name in islice(classes, SHOWN_CLASSES))
    return shown + (f", ... ({len(classes)} in all)" if len(classes) > SHOWN_CLASSES else "")


def told(image: PendingImage) -> str:
    """How messages name an image: its id, and where it was read."""
    return f"image '{image.image_id}'" + (f" (read from {image.origin})" if image.origin else "")


def _check_identity(record: ImageRecord) -> None:
    if not _IMAGE_ID.fullmatch(record.image_id) or _FORBIDDEN_IN_ID & set(record.image_id):
        raise UserError(
            "an image id needs 1 to 80 visible ASCII characters without a dot or slash (shards split names "
            "at the first dot); rename the image"
        )
    if record.width <= 0 or record.height <= 0:
        raise UserError(f"the picture is {record.width} x {record.height} pixels; both sides must be positive")


def _check_regions(record: ImageRecord) -> None:
    boxes_N4, features_ND = record.boxes, record.features
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4 or features_ND.ndim != 2:
        raise UserError(f"boxes must be [N, 4] and features [N, D], got {boxes_N4.shape} and {features_ND.shape}")
    if len(boxes_N4) != len(features_ND):
        raise UserError(f"{len(boxes_N4)} boxes but {len(features_ND)} feature vectors")
    if boxes_N4.dtype != np.float32 or features_ND.dtype not in (np.float16, np.float32):
        raise UserError(
            f"boxes must be float32, features float16 or float32; got {boxes_N4.dtype}, {features_ND.dtype}"
        )
    bad_rows = np.flatnonzero(~np.isfinite(features_ND).all(axis=1))
    if len(bad_rows):
        raise UserError(f"the features of region {bad_rows[0]} hold NaN or infinity; extract them again")
    _check_boxes(boxes_N4, record.width, record.height)


def _check_boxes(boxes_N4: NDArray[np.float32], width: int, height: int) -> None:
    if len(boxes_N4) and width > SMALLEST_SIDE_PX and boxes_N4.min() >= 0 and boxes_N4.max() <= 1:
        raise UserError(
            f"all boxes lie within 0 and 1: they look like shares of the {width} x {height} picture; multiply x by its "
            "width and y by its height"
        )
    low, limit = -BOX_TOLERANCE_PX, np.array([width, height, width, height]) + BOX_TOLERANCE_PX
    # Written so that NaN fails too.
    inside_N = ((boxes_N4 >= low) & (boxes_N4 <= limit)).all(axis=1)
    ordered_N = (boxes_N4[:, 2] > boxes_N4[:, 0]) & (boxes_N4[:, 3] > boxes_N4[:, 1])
    for good_N, what in ((inside_N, f"lies outside the {width} x {height} picture"), (ordered_N, "is empty")):
        bad_rows = np.flatnonzero(~good_N)
        if len(bad_rows):
            box = [round(float(side), 2) for side in boxes_N4[bad_rows[0]]]
            raise UserError(f"box {bad_rows[0]} {box} {what}; boxes are x1 y1 x2 y2 in pixels, x1 < x2, y1 < y2")


def _check_questions(questions: tuple[Question, ...], answered: bool) -> None:
    if not questions:
        raise UserError("no question is asked about it; leave the image out")
    seen: set[int] = set()
    for question in questions:
        place = f"question {question.question_id}"
        if question.question_id in seen:
            raise UserError(f"{place} stands there twice")
        seen.add(question.question_id)
        if not question.text.strip():
            raise UserError(f"{place} has no text")
        if len(question.answers) not in (0, ANSWERS_PER_QUESTION):
            raise UserError(f"{place} has {len(question.answers)} answers; give ten, or none with scores")
        if answered and not question.answers and not question.scores:
            raise UserError(f"{place} has no answers; add them or declare the split unanswered")
        for answer, score in question.scores.items():
            if not 0 < score <= 1:
                raise UserError(f"{place}: the score {score} of answer '{answer}' is not in (0, 1]")
