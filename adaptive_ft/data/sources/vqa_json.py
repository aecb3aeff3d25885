"""Official VQA v2 questions and annotations, and VQA-CP's variant of them (bare lists with "coco_split")."""

import json
import sqlite3
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from adaptive_ft.data.answers import soft_scores
from adaptive_ft.data.records import ANSWERS_PER_QUESTION, Question
from adaptive_ft.data.sources.fields import as_list, as_text, text, text_or_empty, whole_number
from adaptive_ft.data.sources.json_stream import find_value, stream_list
from adaptive_ft.data.sources.staging import LARGEST_ID, staging, staging_database
from adaptive_ft.errors import UserError


def vqa_questions(
    questions_path: Path, annotations_path: Path | None, *, coco_split: str | None = None
) -> Iterator[tuple[str, Question]]:
    """Each question with the id of its image, in file order; plain or gzip JSON.

    Image ids become COCO's file names `COCO_<split>_<12 digits>`; the split is `coco_split` if given, else
    the entry's own "coco_split" (VQA-CP), else the file's "data_subtype". Without annotations (a test split)
    questions have no answers. Raises UserError naming file and question for what is missing, doubled or
    without answers.
    """
    annotations = None if annotations_path is None else _Annotations(annotations_path)
    asked: set[int] = set()
    told = cache(lambda: as_text(find_value(questions_path, "data_subtype") or "", "'data_subtype'"))
    for entry in _entries(questions_path, "questions"):
        number = _question_id(entry, questions_path)
        if number in asked:
            raise UserError(f"{questions_path} asks question {number} twice; leave one of them out")
        asked.add(number)
        try:
            split = coco_split or text_or_empty(entry, "coco_split") or told()
            image_id = coco_image_id(whole_number(entry, "image_id"), split)
            question = _question(entry, ("", "", ()) if annotations is None else annotations.of(number))
        except ValueError as error:
            raise UserError(f"{questions_path}, question {number}: {error}") from None
        if annotations is not None and not question.answers:
            raise UserError(f"question {number} of {questions_path} has no answers in {annotations_path}")
        yield image_id, question
    if annotations is not None:
        annotations.refuse_others(asked, questions_path)


def coco_image_id(number: int, coco_split: str) -> str:
    """COCO's file name without ending, `COCO_train2014_000000000025`; ValueError without a split."""
    if not coco_split:
        raise ValueError("the file does not say which COCO split its images are from; give coco_split")
    return f"COCO_{coco_split}_{number:012d}"


class _Annotations:
    """What is told of each question, on the disk, as the two files of a split may differ in their order."""

    def __init__(self, path: Path) -> None:
        self._path, self._database = path, staging_database()
        with staging():
            self._database.execute("CREATE TABLE told (id INTEGER PRIMARY KEY, content TEXT)")
            self._database.execute("BEGIN")
            for number, content in self._rows():
                try:
                    self._database.execute("INSERT INTO told VALUES (?, ?)", (number, content))
                except sqlite3.IntegrityError:
                    raise UserError(f"{path} answers question {number} twice") from None
            self._database.execute("COMMIT")

    def of(self, number: int) -> tuple[str, str, tuple[str, ...]]:
        """Question type, answer type and answers of a question, empty where the file does not know it."""
        found = self._database.execute("SELECT content FROM told WHERE id = ?", (number,)).fetchone()
        if found is None:
            return "", "", ()
        question_type, answer_type, answers = json.loads(found[0])
        return question_type, answer_type, tuple(answers)

    def refuse_others(self, asked: Collection[int], questions_path: Path) -> None:
        """UserError if the file answers what nobody asked."""
        others = [number for (number,) in self._database.execute("SELECT id FROM told") if number not in asked]
        if others:
            raise UserError(
                f"{self._path} answers {len(others)} questions that {questions_path} does not ask, first {others[0]}; "
                "give the two files of one split"
            )

    def _rows(self) -> Iterator[tuple[int, str]]:
        for entry in _entries(self._path, "annotations"):
            number = _question_id(entry, self._path)
            try:
                yield number, json.dumps(_told(entry), ensure_ascii=False)
            except ValueError as error:
                raise UserError(f"{self._path}, question {number}: {error}") from None


def _told(entry: dict[str, Any]) -> tuple[str, str, list[str]]:
    answers = [text(answer, "answer") for answer in as_list(entry.get("answers", []), "'answers'")]
    if answers and len(answers) != ANSWERS_PER_QUESTION:
        raise ValueError(f"{len(answers)} answers, expected {ANSWERS_PER_QUESTION}")
    return text_or_empty(entry, "question_type"), text_or_empty(entry, "answer_type"), answers


def _question(entry: dict[str, Any], told: tuple[str, str, tuple[str, ...]]) -> Question:
    question_type, answer_type, answers = told
    return Question(
        question_id=whole_number(entry, "question_id"),
        text=text(entry, "question"),
        question_type=question_type,
        answer_type=answer_type,
        answers=answers,
        scores=soft_scores(answers) if answers else {},
    )


def _entries(path: Path, key: str) -> Iterator[Any]:
    return stream_list(path, f"the official VQA v2 {key} file", key)


def _question_id(entry: Any, path: Path) -> int:
    if not isinstance(entry, dict) or not isinstance(entry.get("question_id"), int):
        raise UserError(f"{path} holds an entry without a whole question_id: {str(entry)[:80]}")
    if abs(entry["question_id"]) > LARGEST_ID:
        raise UserError(f"{path}: the question id {entry['question_id']} has more than 63 bits")
    return int(entry["question_id"])
