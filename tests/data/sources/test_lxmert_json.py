"""LXMERT's question files: labels become scores of processed answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.data.records import OUTSIDE_TABLE, ImageRecord
from adaptive_ft.data.sources.join import Join
from adaptive_ft.errors import UserError
from tests.data.sources.reading import read_lxmert_json


def entry(number: int, **changes: Any) -> dict[str, Any]:
    return {"question_id": number, "img_id": f"img{number // 10}", "sent": "Who?", "label": {"dog": 1}, **changes}


def write(folder: Path, content: Any) -> Path:
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return path


def test_labels_become_scores(tmp_path: Path) -> None:
    label = {"T-shirt": 0.3, "t shirt": 0.6, "dog": 0.9}
    by_image = read_lxmert_json(write(tmp_path, [entry(10, label=label), entry(11), entry(20, question_type="who")]))
    assert list(by_image) == ["img1", "img2"]
    first, second = by_image["img1"]
    assert (first.question_id, first.text, first.answers) == (10, "Who?", ())
    assert first.scores == {"t shirt": 0.9, "dog": 0.9}
    assert second.scores == {"dog": 1.0}
    assert by_image["img2"][0].question_type == "who"


def test_an_empty_label_is_not_an_unanswered_question(tmp_path: Path) -> None:
    unanswered = entry(11)
    del unanswered["label"]
    first, second = read_lxmert_json(write(tmp_path, [entry(10, label={}), unanswered]))["img1"]
    assert first.scores == {OUTSIDE_TABLE: 1.0}
    assert second.scores == {}


def test_an_image_named_by_a_number_meets_its_regions(tmp_path: Path, make_image: Callable[..., ImageRecord]) -> None:
    by_image = read_lxmert_json(write(tmp_path, [entry(10, img_id=25)]))
    (joined,) = Join([replace(make_image(1), image_id="25")], by_image)
    assert [question.question_id for question in joined.questions] == [10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"entries": []}, r"train\.json has no list of questions; give one of LXMERT's"),
        ([entry(10), {"question_id": 11}], "entry 1 .*: key 'img_id' is missing"),
        ([entry(10, label=["dog"])], r"entry 0 .*: 'label' is \['dog'\], expected an object"),
        ([entry(10, label={"dog": "1"})], "entry 0 .*: the score of 'dog' is '1', expected a number"),
        ([entry(10, label={"dog": float("nan")})], "entry 0 .*: the score of 'dog' is nan, expected a number"),
        ([entry(10, label={"\ud800": 1})], "entry 0 .*: an answer holds half a character"),
        ([entry(10, question_id="x")], "entry 0 .*: 'question_id' is 'x', expected a whole number"),
        ([entry(10, question_id=float("inf"))], "entry 0 .*: 'question_id' is inf, expected a whole number"),
        ([entry(10, sent=3)], "entry 0 .*: 'sent' is 3, expected a text"),
        ([entry(10, img_id=None)], "entry 0 .*: 'img_id' is None, expected a text"),
        ([entry(10, img_id=["a"])], r"entry 0 .*: 'img_id' is \['a'\], expected a text"),
        ([entry(10, question_type=7)], "entry 0 .*: 'question_type' is 7, expected a text"),
        (["text"], "entry 0 .*: 'text' is no object with 'img_id'"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_lxmert_json(write(tmp_path, content))


def test_real_files(shared_data: Path) -> None:
    by_image = read_lxmert_json(shared_data / "vqa_v2_official_small" / "lxmert_smalltrain.json")
    questions = [question for listed in by_image.values() for question in listed]
    assert len(questions) == 2006
    assert sum(OUTSIDE_TABLE in question.scores for question in questions) == 36
