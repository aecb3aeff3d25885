"""The JSON member of a shard: everything about an image except boxes, features and pixels."""

import json
from typing import Any, NamedTuple

import orjson

from adaptive_ft.data.answers import question_scores
from adaptive_ft.data.records import ImageRecord, Question


class ImageDescription(NamedTuple):
    """An image as its JSON member tells it; `num_boxes` regions of `feature_dim` numbers lie beside it."""

    image_id: str
    width: int
    height: int
    num_boxes: int
    feature_dim: int
    feature_dtype: str
    questions: tuple[Question, ...]


def encode_image(record: ImageRecord, feature_dtype: str) -> bytes:
    """The JSON of a record in UTF-8, soft scores filled in; `feature_dtype` is the stored one."""
    content = {
        "image_id": record.image_id,
        "width": record.width,
        "height": record.height,
        "boxes": list(record.boxes.shape),
        "features": list(record.features.shape),
        "feature_dtype": feature_dtype,
        "questions": [_question_content(question) for question in record.questions],
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def decode_image(content: bytes | memoryview) -> ImageDescription:
    """The description in a JSON member; raises ValueError, KeyError or TypeError if it is damaged."""
    image = orjson.loads(content)  # a third of the time json takes, and every sample that is read pays it
    num_boxes, feature_dim = image["features"]
    return ImageDescription(
        image_id=image["image_id"],
        width=image["width"],
        height=image["height"],
        num_boxes=num_boxes,
        feature_dim=feature_dim,
        feature_dtype=image["feature_dtype"],
        questions=tuple(map(_question, image["questions"])),
    )


def _question(content: dict[str, Any]) -> Question:
    return Question(
        content["question_id"],
        content["text"],
        content["question_type"],
        content["answer_type"],
        tuple(content["answers"]),
        content["scores"],
    )


def _question_content(question: Question) -> dict[str, object]:
    return {
        "question_id": question.question_id,
        "text": question.text,
        "question_type": question.question_type,
        "answer_type": question.answer_type,
        "answers": question.answers,
        "scores": question_scores(question),
    }
