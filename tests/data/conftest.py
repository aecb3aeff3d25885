"""Small shard sets made in code, for the tests of the data package."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.places import remote
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.writing.shards import write_shards
from tests.data.shard_server import Server

MakeImage = Callable[..., ImageRecord]


@pytest.fixture
def make_image() -> MakeImage:
    """Makes image `number` of 100 x 50 pixels with random regions; its question ids are 100 * number + 0, 1, ..."""

    def make(number: int, *, boxes: int = 3, questions: int = 2, feature_dim: int = 5) -> ImageRecord:
        random = np.random.default_rng(number)
        corners = random.uniform(0, [[60, 20]], (boxes, 2))
        return ImageRecord(
            image_id=f"img{number:03d}",
            width=100,
            height=50,
            boxes=np.hstack([corners, corners + random.uniform(1, 30, (boxes, 2))]).astype(np.float32),
            features=random.standard_normal((boxes, feature_dim)).astype(np.float32),
            questions=tuple(make_question(100 * number + place) for place in range(questions)),
        )

    return make


def make_question(number: int) -> Question:
    answers = ("red",) * 7 + ("Red", "the red", "blue")
    return Question(number, f"what colour is thing {number}?", "what colour", "other", answers, {})


@pytest.fixture
def records(make_image: MakeImage) -> list[ImageRecord]:
    """7 images with 1 to 3 questions (13 in all) and 2 to 4 boxes each."""
    sizes = [(1, 3), (2, 4), (3, 2), (1, 3), (2, 3), (3, 4), (1, 2)]
    return [make_image(number, boxes=boxes, questions=asked) for number, (asked, boxes) in enumerate(sizes)]


@pytest.fixture
def info() -> ShardInfo:
    return ShardInfo(split="train", domain="test", feature_extractor="random", answer_table=["red", "blue"])


@pytest.fixture
def shard_folder(tmp_path: Path, records: list[ImageRecord], info: ShardInfo) -> Path:
    """The 7 images in shards of 2, 2, 2 and 1."""
    folder = tmp_path / "set"
    write_shards(records, folder, info, images_per_shard=2)
    return folder


@pytest.fixture
def server(shard_folder: Path) -> Iterator[Server]:
    with Server(shard_folder) as server:
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.0)
