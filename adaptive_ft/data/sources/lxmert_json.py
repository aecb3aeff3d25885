"""LXMERT's own question files: a list of {question_id, img_id, sent, label: {answer: score}, ...}."""

from pathlib import Path
from typing import Any

from adaptive_ft.data.answers import merge_scores
from adaptive_ft.data.records import OUTSIDE_TABLE, Question
from adaptive_ft.data.sources.fields import as_number, as_object, as_text, image_id, text, text_or_empty, whole_number
from adaptive_ft.data.sources.join import QuestionsByImage
from adaptive_ft.data.sources.opening import read_json
from adaptive_ft.errors import UserError


def read_lxmert_json(path: Path) -> QuestionsByImage:
    """Questions by image id, in file order; plain or gzip JSON.

    The file has soft scores of raw answers, not the ten answers: scores of answers that the official
    normalisation makes equal are added (at most 1). An empty "label" (all answers outside LXMERT's table)
    scores OUTSIDE_TABLE only; no "label" at all means a test split. UserError names file and entry.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of questions; give one of LXMERT's data/vqa/*.json files")
    by_image: QuestionsByImage = {}
    for number, entry in enumerate(content):
        try:
            by_image.setdefault(image_id(entry, "img_id"), []).append(_question(entry))
        except ValueError as error:
            raise UserError(f"{path}, entry {number} ({str(entry)[:60]}) cannot be read: {error}") from None
    return by_image


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
