"""validate_record refuses what a shard must not hold and says where it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adaptive_ft.data.records import ImageRecord, labelled_picture, validate_labelled_picture, validate_record
from adaptive_ft.errors import UserError


def with_box(record: ImageRecord, *box: float) -> ImageRecord:
    boxes = record.boxes.copy()
    boxes[1] = box
    return replace(record, boxes=boxes)


def with_feature(record: ImageRecord, value: float) -> ImageRecord:
    features = record.features.copy()
    features[2, 3] = value
    return replace(record, features=features)


def with_question(record: ImageRecord, **changes: Any) -> ImageRecord:
    return replace(record, questions=(record.questions[0], replace(record.questions[1], **changes)))


DAMAGE: dict[str, tuple[Callable[[ImageRecord], ImageRecord], str]] = {
    "nan feature": (lambda r: with_feature(r, float("nan")), "region 2 hold NaN"),
    "infinite feature": (lambda r: with_feature(r, float("inf")), "region 2 hold NaN"),
    "box outside": (lambda r: with_box(r, 0, 0, 101.5, 50), "box 1 .* outside the 100 x 50"),
    "box below zero": (lambda r: with_box(r, -2, 0, 10, 10), "box 1 .* outside"),
    "nan box": (lambda r: with_box(r, float("nan"), 0, 10, 10), "box 1 .* outside"),
    "turned box": (lambda r: with_box(r, 20, 0, 10, 10), "box 1 .* empty"),
    "flat box": (lambda r: with_box(r, 0, 10, 10, 10), "box 1 .* empty"),
    "zero size": (lambda r: replace(r, width=0), "0 x 50 pixels"),
    "counts differ": (lambda r: replace(r, boxes=r.boxes[:2]), "2 boxes but 3 feature"),
    "double features": (lambda r: replace(r, features=r.features.astype(np.float64)), "float64"),
    "flat boxes": (lambda r: replace(r, boxes=r.boxes.ravel()), r"must be \[N, 4\]"),
    "dot in id": (lambda r: replace(r, image_id="a.b"), "without a dot"),
    "slash in id": (lambda r: replace(r, image_id="../a"), "without a dot or slash"),
    "empty id": (lambda r: replace(r, image_id=""), "1 to 80"),
    "no question": (lambda r: replace(r, questions=()), "no question"),
    "question twice": (lambda r: with_question(r, question_id=r.questions[0].question_id), "question 0 .* twice"),
    "no answers": (lambda r: with_question(r, answers=()), "question 1 has no answers"),
    "nine answers": (lambda r: with_question(r, answers=("a",) * 9), "question 1 has 9 answers"),
    "no text": (lambda r: with_question(r, text=" "), "question 1 has no text"),
    "score of 2": (lambda r: with_question(r, scores={"red": 2.0}), "score 2.0 of answer 'red'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, make_image: Callable[..., ImageRecord]) -> None:
    damage, message = DAMAGE[name]
    record = replace(damage(make_image(0)), origin="features.tsv line 7")
    with pytest.raises(UserError, match=message) as caught:
        validate_record(record)
    assert f"image '{record.image_id}' (read from features.tsv line 7)" in str(caught.value)


def test_one_pixel_over_the_border_and_unanswered_splits_are_fine(make_image: Callable[..., ImageRecord]) -> None:
    validate_record(with_box(make_image(0), -1, -1, 101, 51))
    validate_record(with_question(make_image(0), answers=()), answered=False)


def test_boxes_that_are_shares_of_the_picture_are_refused(make_image: Callable[..., ImageRecord]) -> None:
    """All of them within the first pixel; in a picture of two pixels they may lie there."""
    shares = replace(make_image(0), boxes=np.array([[0, 0.25, 1, 1]] * len(make_image(0).boxes), np.float32))
    with pytest.raises(UserError, match="all boxes lie within 0 and 1: they look like shares of the 100 x 50 picture"):
        validate_record(shares)
    validate_record(replace(shares, width=2, height=1))
    validate_record(with_box(shares, 1, 1, 9, 9))


def test_of_many_classes_ten_are_shown() -> None:
    record = labelled_picture("p", 1, "cat", b"\x89PNG", (4, 4))
    classes = [f"dog {number}" for number in range(12)]
    with pytest.raises(UserError, match=r"'dog 8', 'dog 9', \.\.\. \(12 in all\); correct it"):
        validate_labelled_picture(record, classes)


PICTURE_DAMAGE: dict[str, tuple[Callable[[ImageRecord], ImageRecord], str]] = {
    "no pixels": (lambda r: replace(r, picture=None), "a labelled picture has pixels"),
    "two questions": (lambda r: replace(r, questions=r.questions * 2), "one question with one answer"),
    "regions": (lambda r: replace(r, boxes=np.ones((1, 4), dtype=np.float32)), "no regions"),
    "two labels": (
        lambda r: replace(r, questions=(replace(r.questions[0], scores={"cat": 1.0, "dog": 1.0}),)),
        "one question with one answer",
    ),
    "foreign label": (
        lambda r: replace(r, questions=(replace(r.questions[0], scores={"cow": 1.0}),)),
        r"\(read from a\.csv\): its label 'cow' is none of the classes: 'cat', 'dog'; correct it, or add",
    ),
}


@pytest.mark.parametrize("name", PICTURE_DAMAGE)
def test_a_picture_that_cannot_be_classified_is_refused(name: str) -> None:
    record = labelled_picture("p", 1, "cat", b"\x89PNG", (4, 4), origin="a.csv")
    validate_record(record)
    validate_labelled_picture(record, ["cat", "dog"])
    damage, message = PICTURE_DAMAGE[name]
    with pytest.raises(UserError, match=message):
        validate_labelled_picture(damage(record), ["cat", "dog"])
