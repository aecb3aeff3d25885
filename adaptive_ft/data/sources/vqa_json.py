"""Official VQA v2 questions and annotations, and VQA-CP's variant of them (bare lists with "coco_split")."""

from pathlib import Path
from typing import Any

from adaptive_ft.data.answers import soft_scores
from adaptive_ft.data.records import ANSWERS_PER_QUESTION, Question
from adaptive_ft.data.sources.fields import as_list, text, text_or_empty, whole_number
from adaptive_ft.data.sources.join import QuestionsByImage
from adaptive_ft.data.sources.opening import read_json
from adaptive_ft.errors import UserError


def read_vqa_json(
    questions_path: Path, annotations_path: Path | None, *, coco_split: str | None = None
) -> QuestionsByImage:
    """Questions by image id, in file order; plain or gzip JSON.

    Image ids become COCO's file names `COCO_<split>_<12 digits>`; the split is `coco_split` if given, else
    the entry's own "coco_split" (VQA-CP), else the file's "data_subtype". Without annotations (a test split)
    questions have no answers. Raises UserError naming file and question for what is missing, doubled or
    without answers.
    """
    content = read_json(questions_path)
    annotations = None if annotations_path is None else _read_annotations(annotations_path)
    by_image: QuestionsByImage = {}
    asked: set[int] = set()
    for entry in _entries(content, "questions", questions_path):
        number = _question_id(entry, questions_path)
        if number in asked:
            raise UserError(f"{questions_path} asks question {number} twice; leave one of them out")
        asked.add(number)
        try:
            split = coco_split or text_or_empty(entry, "coco_split") or _default_split(content)
            image_id = coco_image_id(whole_number(entry, "image_id"), split)
            question = _question(entry, None if annotations is None else annotations.pop(number, None))
        except ValueError as error:
            raise UserError(f"{questions_path}, question {number}: {error}") from None
        if annotations_path is not None and not question.answers:
            raise UserError(f"question {number} of {questions_path} has no answers in {annotations_path}")
        by_image.setdefault(image_id, []).append(question)
    if annotations:
        raise UserError(
            f"{annotations_path} answers {len(annotations)} questions that {questions_path} does not ask, "
            f"first {next(iter(annotations))}; give the two files of one split"
        )
    return by_image


def coco_image_id(number: int, coco_split: str) -> str:
    """COCO's file name without ending, `COCO_train2014_000000000025`; ValueError without a split."""
    if not coco_split:
        raise ValueError("the file does not say which COCO split its images are from; give coco_split")
    return f"COCO_{coco_split}_{number:012d}"


def _default_split(content: Any) -> str:
    return text_or_empty(content, "data_subtype") if isinstance(content, dict) else ""


def _read_annotations(path: Path) -> dict[int, dict[str, Any]]:
    annotations: dict[int, dict[str, Any]] = {}
    for entry in _entries(read_json(path), "annotations", path):
        number = _question_id(entry, path)
        if number in annotations:
            raise UserError(f"{path} answers question {number} twice")
        annotations[number] = entry
    return annotations


def _question(entry: dict[str, Any], annotation: dict[str, Any] | None) -> Question:
    annotation = annotation or {}
    answers = tuple(text(answer, "answer") for answer in as_list(annotation.get("answers", []), "'answers'"))
    if answers and len(answers) != ANSWERS_PER_QUESTION:
        raise ValueError(f"{len(answers)} answers, expected {ANSWERS_PER_QUESTION}")
    return Question(
        question_id=whole_number(entry, "question_id"),
        text=text(entry, "question"),
        question_type=text_or_empty(annotation, "question_type"),
        answer_type=text_or_empty(annotation, "answer_type"),
        answers=answers,
        scores=soft_scores(answers) if answers else {},
    )


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = content if isinstance(content, list) else content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{path} has no list of {key}; give the official VQA v2 {key} file")
    return entries


def _question_id(entry: Any, path: Path) -> int:
    if not isinstance(entry, dict) or not isinstance(entry.get("question_id"), int):
        raise UserError(f"{path} holds an entry without a whole question_id: {str(entry)[:80]}")
    return int(entry["question_id"])
