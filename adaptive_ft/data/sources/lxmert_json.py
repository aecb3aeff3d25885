"""LXMERT's own question files: a list of {question_id, img_id, sent, label: {answer: score}, ...}."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptive_ft.data.answers import merge_scores
from adaptive_ft.data.records import OUTSIDE_TABLE, Question
from adaptive_ft.data.sources.fields import as_number, as_object, as_text, image_id, text, text_or_empty, whole_number
from adaptive_ft.data.sources.json_stream import stream_list
from adaptive_ft.errors import UserError


def lxmert_questions(path: Path) -> Iterator[tuple[str, Question]]:
    """Each question with the id of its image, in file order; plain or gzip JSON.

    The file has soft scores of raw answers, not the ten answers: scores of answers that the official
    normalisation makes equal are added (at most 1). An empty "label" (all answers outside LXMERT's table)
    scores OUTSIDE_TABLE only; no "label" at all means a test split. UserError names file and entry.
    """
    for number, entry in enumerate(stream_list(path, "one of LXMERT's data/vqa/*.json files")):
        try:
            asked = image_id(entry, "img_id"), _question(entry)
        except ValueError as error:
            raise UserError(f"{path}, entry {number} ({str(entry)[:60]}) cannot be read: {error}") from None
        yield asked


def _question(entry: dict[str, Any]) -> Question:
    label = entry.get("label")
    scores = {} if label is None else _scores(as_object(label, "'label'")) or {OUTSIDE_TABLE: 1.0}
    return Question(
        question_id=whole_number(entry, "question_id"),
        text=text(entry, "sent"),
        question_type=text_or_empty(entry, "question_type"),
        answer_type=text_or_empty(entry, "answer_type"),
        answers=(),
        scores=scores,
    )


def _scores(label: dict[str, Any]) -> dict[str, float]:
    return merge_scores(
        (as_text(answer, "an answer"), as_number(score, f"the score of '{answer}'")) for answer, score in label.items()
    )
