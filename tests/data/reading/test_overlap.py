"""What two splits share is counted image by image."""

from pathlib import Path

import pytest

from adaptive_ft.data.reading.overlap import count_shared
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.errors import UserError
from tests.data.conftest import make_question


def test_images_and_questions_are_counted(shard_folder: Path, records: list[ImageRecord]) -> None:
    same = {record.image_id: list(record.questions) for record in records}
    assert count_shared(shard_folder, same) == (7, 13)
    assert count_shared(shard_folder, {"img003": [make_question(9999)], "other": [make_question(300)]}) == (1, 0)
    assert count_shared(shard_folder, {}) == (0, 0)


def test_damage_is_named(shard_folder: Path) -> None:
    path = shard_folder / "shard-00001.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"question_id":300', b'"question_id":900'))
    with pytest.raises(UserError, match=r"shard-00001\.tar, image number 1: its member 'json' is not what was written"):
        count_shared(shard_folder, {})
