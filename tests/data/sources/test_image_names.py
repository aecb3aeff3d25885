"""Numbers become the names that questions use, and a number that fits two names is an error."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_names import image_name, image_number, named_as_asked
from adaptive_ft.errors import UserError

MakeImage = Callable[..., ImageRecord]
TRAIN, VAL = "COCO_train2014_000000000025", "COCO_val2014_000000000042"


@pytest.mark.parametrize(
    ("name", "number"),
    [("25", 25), ("000000000025", 25), (TRAIN, 25), ("COCO_test-dev2015_000000000001", 1), ("n25", None), ("2²", None)],
)
def test_numbers_in_names(name: str, number: int | None) -> None:
    assert image_number(name) == number


def test_endings_of_pictures_go() -> None:
    assert [image_name(name) for name in ("a.jpg", "b.JPEG", "c.png", "d", "e.f")] == ["a", "b", "c", "d", "e.f"]


def test_records_are_named_as_the_questions_name_them(make_image: MakeImage) -> None:
    """A trainval folder serves both splits; GQA's bare numbers and unasked images keep their names."""
    names = ["25", "000000000042", "77", "n1", "²", TRAIN.replace("25", "31")]
    records = [replace(make_image(1), image_id=name) for name in names]
    asked = {TRAIN, VAL, "77"}
    assert [record.image_id for record in named_as_asked(records, asked)] == [TRAIN, VAL, *names[2:]]


def test_a_number_that_fits_two_names(make_image: MakeImage) -> None:
    record = replace(make_image(1), image_id="25", origin="x.tsv line 3")
    with pytest.raises(UserError, match=rf"'25' \(x\.tsv line 3\) may be {TRAIN} or COCO_val2014_000000000025"):
        list(named_as_asked([record], [TRAIN, "COCO_val2014_000000000025"]))
