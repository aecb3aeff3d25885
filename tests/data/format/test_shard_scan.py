"""The thorough check of a shard finds an index that does not belong, even if every hash is right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.format.shard_index import load_index
from adaptive_ft.data.format.shard_scan import check_shard
from adaptive_ft.errors import UserError


def shift(column: str, amount: int) -> Callable[[NDArray[np.void]], None]:
    def change(index_I: NDArray[np.void]) -> None:
        index_I[column][1] += amount

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift("features_offset", 512), "does not point at its members"),
        (shift("boxes_size", 16), "does not point at its members"),
        (shift("features_xxh3", 1), "does not point at its members"),
        (shift("num_boxes", -1), "sample 'img001': the index says 3 boxes, found 4"),
        (shift("num_questions", 1), "sample 'img001': the index says 3 questions, found 2"),
    ],
)
def test_a_wrong_index(change: Callable[[NDArray[np.void]], None], message: str, shard_folder: Path) -> None:
    entry = Manifest.load(shard_folder).shards[0]
    index_I = load_index(shard_folder, entry)
    check_shard(shard_folder, entry, index_I)
    change(index_I)
    with pytest.raises(UserError, match=message):
        check_shard(shard_folder, entry, index_I)
