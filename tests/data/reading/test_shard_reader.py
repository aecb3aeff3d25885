"""Readers are shared by threads and keep few files open, however many shards there are."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.places import shard_files
from adaptive_ft.data.reading.bad_samples import StopAtBad
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.shard_reader import open_reader
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.shards import write_shards

OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts open files through /proc")
def test_threads_read_more_shards_than_may_be_open(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "_MOST_OPEN", 3)
    images = [make_image(number, questions=1) for number in range(12)]
    write_shards(images, tmp_path / "set", info, images_per_shard=1)
    reader = open_reader(ShardSet.open(tmp_path / "set"), StopAtBad(), BatchMemory(8))
    before = len(os.listdir(OPEN_FILES))

    def read(example: int) -> bool:
        features_ND, boxes_N4 = torch.full((3, 5), torch.nan, dtype=torch.float16), torch.full((3, 4), torch.nan)
        sample = reader.read(example, features_ND.numpy(), boxes_N4.numpy())
        assert sample.image_id == images[example].image_id
        np.testing.assert_array_equal(features_ND, images[example].features.astype(np.float16))
        np.testing.assert_array_equal(boxes_N4, images[example].boxes)
        return True

    examples = np.random.default_rng(0).integers(0, 12, 400).tolist()
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, examples))
    assert len(os.listdir(OPEN_FILES)) - before <= 3


def test_a_large_image_is_copied_whole(make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    record = make_image(0, boxes=40, feature_dim=2048)  # 81,920 numbers: more than one serial copy takes
    write_shards([record], tmp_path / "set", info)
    features_ND, boxes_N4 = torch.empty(40, 2048, dtype=torch.float16), torch.empty(40, 4)
    open_reader(ShardSet.open(tmp_path / "set"), StopAtBad(), BatchMemory(8)).read(
        1, features_ND.numpy(), boxes_N4.numpy()
    )
    np.testing.assert_array_equal(features_ND, record.features.astype(np.float16))
