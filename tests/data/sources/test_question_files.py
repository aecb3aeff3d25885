"""Several question files become one, unless they overlap or do not belong together."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.data.sources.join import any_answer
from adaptive_ft.data.sources.question_files import QuestionFiles
from adaptive_ft.errors import UserError


def lxmert(path: Path, *numbers: int, label: dict[str, float] | None = None) -> Path:
    entries = [{"question_id": number, "img_id": f"img{number // 10}", "sent": "Who?"} for number in numbers]
    labelled = [entry if label is None else {**entry, "label": label} for entry in entries]
    path.write_text(json.dumps(labelled))
    return path


def official(folder: Path, split: str, number: int) -> tuple[Path, Path]:
    asked = {"question_id": number, "image_id": 5, "question": "Who?"}
    answers = [{"answer": "dog", "answer_id": place} for place in range(10)]
    paths = folder / f"q_{split}.json", folder / f"a_{split}.json"
    paths[0].write_text(json.dumps({"data_subtype": split, "questions": [asked]}))
    paths[1].write_text(json.dumps({"annotations": [{"question_id": number, "answers": answers}]}))
    return paths


def test_train_and_nominival_together(tmp_path: Path) -> None:
    paths = lxmert(tmp_path / "train.json", 10, 20), lxmert(tmp_path / "nominival.json", 21, 30)
    by_image = QuestionFiles(lxmert_json=paths).read()
    assert {name: [question.question_id for question in asked] for name, asked in by_image.items()} == {
        "img1": [10],
        "img2": [20, 21],
        "img3": [30],
    }


def test_official_files_of_two_splits_keep_their_coco_names(tmp_path: Path) -> None:
    (train, train_answers), (val, val_answers) = official(tmp_path, "train2014", 1), official(tmp_path, "val2014", 2)
    by_image = QuestionFiles(questions=(train, val), annotations=(train_answers, val_answers)).read()
    assert list(by_image) == ["COCO_train2014_000000000005", "COCO_val2014_000000000005"]
    with pytest.raises(UserError, match=r"annotations names 1 files and --source\.questions 2"):
        QuestionFiles(questions=(train, val), annotations=(train_answers,)).read()


def test_files_that_overlap(tmp_path: Path) -> None:
    paths = lxmert(tmp_path / "train.json", 10, 20), lxmert(tmp_path / "minival.json", 30, 20)
    with pytest.raises(UserError, match=r"question 20 stands in '.*train\.json' and in '.*minival\.json'"):
        QuestionFiles(lxmert_json=paths).read()


@pytest.mark.parametrize("given", [{}, {"annotations": ("a",)}, {"questions": ("q",), "gqa_json": ("g",)}])
def test_one_form_must_be_named(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Name the questions in one form"):
        QuestionFiles(**given).read()


def test_a_split_is_answered_if_a_question_is(tmp_path: Path) -> None:
    train = lxmert(tmp_path / "train.json", 10, label={"dog": 1})
    test = lxmert(tmp_path / "test.json", 20)
    assert any_answer(QuestionFiles(lxmert_json=(train, test)).read())
    assert not any_answer(QuestionFiles(lxmert_json=(test,)).read())
