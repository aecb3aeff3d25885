"""Sources read whole, as their tests look at them; the program never holds all of one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.features import FeatureReader, list_features
from adaptive_ft.data.sources.gqa_json import gqa_questions
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.lxmert_json import lxmert_questions
from adaptive_ft.data.sources.question_store import QuestionStore
from adaptive_ft.data.sources.vqa_json import vqa_questions


def read_features(paths: Iterable[Path], sizes: ImageSizes) -> Iterator[ImageRecord]:
    """The images of all paths in turn, without questions; errors of listing and of reading."""
    return map(FeatureReader(sizes), list_features(paths))


def read_vqa_json(questions: Path, annotations: Path | None, coco_split: str | None = None) -> QuestionStore:
    return QuestionStore([(questions, vqa_questions(questions, annotations, coco_split=coco_split))])


def read_lxmert_json(path: Path) -> QuestionStore:
    return QuestionStore([(path, lxmert_questions(path))])


def read_gqa_json(path: Path) -> QuestionStore:
    return QuestionStore([(path, gqa_questions(path))])
