"""Regions meet questions; what finds no partner is counted, and missing regions are an error unless allowed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from adaptive_ft.data.records import ImageRecord, Question, validate_record
from adaptive_ft.data.sources.join import Join, records_without_regions
from adaptive_ft.errors import UserError

Regions = list[ImageRecord]


@pytest.fixture
def regions(records: list[ImageRecord]) -> Regions:
    return [replace(record, questions=(), origin=f"line {place}") for place, record in enumerate(records)]


@pytest.fixture
def questions(records: list[ImageRecord]) -> dict[str, list[Question]]:
    return {record.image_id: list(record.questions) for record in records[2:5]}


def test_images_meet_their_questions(
    regions: Regions, questions: dict[str, list[Question]], records: list[ImageRecord]
) -> None:
    join = Join(regions, questions)
    for _ in range(2):  # counts start over with each iteration
        joined = list(join)
        assert [record.questions for record in joined] == [record.questions for record in records[2:5]]
        assert (join.images_without_questions, join.questions_without_regions) == (4, 0)


def test_questions_without_regions(
    regions: Regions, questions: dict[str, list[Question]], make_image: Callable[..., ImageRecord]
) -> None:
    questions["absent"] = list(make_image(9).questions)
    with pytest.raises(UserError, match="2 questions are about 1 images without regions, first 'absent'"):
        list(Join(regions, questions))
    lenient = Join(regions, questions, allow_missing_regions=True)
    assert len(list(lenient)) == 3
    assert lenient.questions_without_regions == 2


def test_an_image_listed_twice(regions: Regions, questions: dict[str, list[Question]]) -> None:
    with pytest.raises(UserError, match=r"'img002' comes a second time \(line 2\)"):
        list(Join([*regions, regions[2]], questions))


def test_questions_alone_make_valid_records(questions: dict[str, list[Question]]) -> None:
    made = list(records_without_regions(questions))
    assert [record.image_id for record in made] == list(questions)
    for record in made:
        validate_record(record)
        assert record.boxes.shape == (0, 4)
