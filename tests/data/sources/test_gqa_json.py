"""GQA's questions: one answer, types, parts of a file in a folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.errors import UserError
from tests.data.sources.reading import read_gqa_json, read_lxmert_json

ENTRY = {"imageId": "n25", "question": "What is it?", "answer": "a picture", "types": {"structural": "query"}}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_answers_types_and_ids(tmp_path: Path) -> None:
    unanswered = {"imageId": "n25", "question": "Who?"}
    other = {**ENTRY, "imageId": "7", "answer": "Yes", "types": {"structural": None, "semantic": "rel"}}
    path = write(tmp_path / "q.json", {"07333408": ENTRY, "2": unanswered, "3": other})
    by_image = read_gqa_json(path)
    first, second = by_image["n25"]
    assert (first.question_id, first.text, first.answers) == (7333408, "What is it?", ())
    assert (first.question_type, first.answer_type, first.scores) == ("query", "", {"picture": 1.0})
    assert second.scores == {}
    (third,) = by_image["7"]
    assert (third.answer_type, third.scores) == ("rel", {"yes": 1.0})


def test_parts_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "part0.json", {"1": ENTRY})
    write(tmp_path / "part1.json", {"2": ENTRY})
    assert [question.question_id for question in read_gqa_json(tmp_path)["n25"]] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([ENTRY], "is not an object of questions by id"),
        ({"1": {"question": "Who?"}}, "question 1 .*imageId"),
        ({"1": {"imageId": "7"}}, "question 1 .*'question'"),
        ({"one": ENTRY}, "question one .*: the question's id is 'one', expected a whole number"),
        ({"1": {**ENTRY, "answer": 3}}, "question 1 .*: 'answer' is 3, expected a text"),
        ({"1": {**ENTRY, "question": 3}}, "question 1 .*: 'question' is 3, expected a text"),
        ({"1": {**ENTRY, "imageId": [1]}}, r"question 1 .*: 'imageId' is \[1\], expected a text"),
        ({"1": {**ENTRY, "types": "query"}}, "question 1 .*: 'types' is 'query', expected an object"),
        ({"1": {**ENTRY, "types": {"semantic": 1}}}, "question 1 .*: 'semantic' is 1, expected a text"),
        ({"1": "Who?"}, "question 1 .*: 'Who\\?' is no object with 'imageId'"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"q\.json.*{message}"):
        read_gqa_json(write(tmp_path / "q.json", content))


def test_lxmert_s_form_of_gqa(tmp_path: Path) -> None:
    entry = {"img_id": "2375429", "label": {"pipe": 1.0}, "question_id": "07333408", "sent": "What is it?"}
    (question,) = read_lxmert_json(write(tmp_path / "train.json", [entry]))["2375429"]
    assert (question.question_id, question.scores) == (7333408, {"pipe": 1.0})


def test_real_questions(shared_data: Path) -> None:
    real = shared_data / "gqa_sample"
    by_image = read_gqa_json(real / "question_dir")
    answers = set(json.loads((real / "trainval_label2ans.json").read_text()))
    assert len(by_image) > 1
    for image_id, asked in by_image.items():
        assert (real / "images" / f"{image_id}.jpg").exists()
        for question in asked:
            assert question.scores.keys() <= answers
            assert question.question_type
