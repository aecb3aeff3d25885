"""GQA's question files: {question_id: {imageId, question, answer, types, ...}}, one file or a folder of parts.

GQA as LXMERT rewrote it is read as LXMERT's JSON.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptive_ft.data.answers import merge_scores
from adaptive_ft.data.records import Question
from adaptive_ft.data.sources.fields import as_object, as_whole_number, image_id, text, text_or_empty
from adaptive_ft.data.sources.json_stream import stream_object
from adaptive_ft.data.sources.source_files import on_disk, source_files
from adaptive_ft.errors import UserError


def gqa_questions(path: Path) -> Iterator[tuple[str, Question]]:
    """Each question with the id of its image, in file order; plain or gzip JSON.

    The one answer scores 1; none means a test split. GQA's structural type (query, verify, ...) becomes the question
    type, its semantic type (rel, attr, ...) the answer type. Question ids become numbers, so that zeros at their
    front are lost. Raises UserError naming file and question.
    """
    for part in map(on_disk, source_files(path)):
        for question_id, entry in stream_object(part, "questions by id: one of GQA's *_questions.json files"):
            try:
                asked = image_id(entry, "imageId"), _question(question_id, entry)
            except ValueError as error:
                raise UserError(f"{part}, question {question_id} ({str(entry)[:60]}) cannot be read: {error}") from None
            yield asked


def _question(question_id: str, entry: dict[str, Any]) -> Question:
    types = as_object(entry.get("types") or {}, "'types'")
    return Question(
        question_id=as_whole_number(question_id, "the question's id"),
        text=text(entry, "question"),
        question_type=text_or_empty(types, "structural"),
        answer_type=text_or_empty(types, "semantic"),
        answers=(),
        scores={} if entry.get("answer") is None else merge_scores([(text(entry, "answer"), 1.0)]),
    )
