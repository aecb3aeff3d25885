"""Labelled pictures come back from shards as uint8 batches; damage is named, and each content has its reader."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_ft.data.format.manifest import LABELLED_PICTURES, ShardInfo
from adaptive_ft.data.pixels import Framing, decode_rgb, framed
from adaptive_ft.data.reading.bad_samples import StopAtBad
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.picture_reader import PictureReader
from adaptive_ft.data.reading.shard_set import PictureShardSet, ShardSet
from adaptive_ft.data.reading.stream import EvalStream, TrainStream
from adaptive_ft.data.records import ImageRecord, labelled_picture
from adaptive_ft.data.world.pictures import encode_png
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError
from tests.data.picture_files import noise_picture

INFO = ShardInfo(
    split="train", domain="test", feature_extractor="none", answer_table=["cat", "dog"], content=LABELLED_PICTURES
)


@pytest.fixture
def pictures() -> list[ImageRecord]:
    labels = ["cat", "dog", "dog", "cat", "dog"]
    return [
        labelled_picture(f"p{number}", number, label, encode_png(noise_picture(number)), (30, 20))
        for number, label in enumerate(labels)
    ]


@pytest.fixture
def folder(pictures: list[ImageRecord], tmp_path: Path) -> Path:
    write_shards(pictures, tmp_path / "set", INFO, images_per_shard=2)
    return tmp_path / "set"


def test_a_batch_holds_the_resized_pixels_and_the_labels(pictures: list[ImageRecord], folder: Path) -> None:
    batches = list(EvalStream(ShardSet.open(folder).with_pictures(Framing(16)), batch_size=3, readers=2))
    assert [batch.valid_B.tolist() for batch in batches] == [[True] * 3, [True, True, False]]
    assert [dict(question.scores) for batch in batches for question in batch.questions][:5] == [
        {"cat": 1.0}, {"dog": 1.0}, {"dog": 1.0}, {"cat": 1.0}, {"dog": 1.0},
    ]  # fmt: skip
    assert batches[0].image_ids == ["p0", "p1", "p2"]
    pixels = torch.cat([batch.pixels_B3HW for batch in batches])
    assert pixels.dtype == torch.uint8
    for row, record in enumerate(pictures):
        assert record.picture is not None
        np.testing.assert_array_equal(pixels[row].permute(1, 2, 0), framed(decode_rgb(record.picture), Framing(16)))


def test_training_repeats_itself(folder: Path) -> None:
    def first() -> torch.Tensor:
        stream = TrainStream(ShardSet.open(folder).with_pictures(Framing(16)), batch_size=5, seed=2, readers=2)
        batch = next(stream)
        stream.close()
        return batch.pixels_B3HW

    assert torch.equal(first(), first())


def test_a_damaged_picture_is_named(folder: Path) -> None:
    shards = ShardSet.open(folder)
    row = shards.index_I[3]
    with (folder / "shard-00001.tar").open("r+b") as file:
        file.seek(int(row["picture_offset"]) + 40)
        file.write(bytes(200))
    with pytest.raises(UserError, match=r"shard-00001\.tar, sample 'p3': its member 'picture' is not what was written"):
        PictureReader(shards.with_pictures(Framing(16)), StopAtBad(), BatchMemory(8)).read_batch([3])


def test_pictures_and_questions_are_told_apart(
    folder: Path, make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    assert isinstance(ShardSet.open(folder).with_pictures(Framing(8)), PictureShardSet)
    with pytest.raises(UserError, match="hold labelled pictures, no questions about regions"):
        EvalStream(ShardSet.open(folder), batch_size=2)
    write_shards([make_image(0)], tmp_path / "asked", info)
    with pytest.raises(UserError, match="hold questions, no labelled pictures"):
        ShardSet.open(tmp_path / "asked").with_pictures(Framing(8))
