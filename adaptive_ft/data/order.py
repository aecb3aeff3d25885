"""In which order training sees the examples: a pure function of (seed, epoch), whatever the ranks or readers.

Positions count examples over an endless concatenation of epochs. Shape suffixes: S shards, E examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 16


def epoch_order(
    examples_per_shard: Sequence[int], *, seed: int, epoch: int, window_shards: int = WINDOW_SHARDS
) -> NDArray[np.int64]:
    """The examples [E] of one epoch, each once: shards shuffled, then examples within windows of W shards.

    A window bounds how many shards are read at a time; its shards change from epoch to epoch. At most W
    shards in all: a full shuffle. Source: docs/method.md 7.
    """
    counts_S = np.asarray(examples_per_shard, dtype=np.int64)
    first_S = np.cumsum(counts_S) - counts_S
    # Raw Philox words and a stable sort: numpy promises these for ever, unlike Generator.permutation.
    random = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    shards_S = np.argsort(random.random_raw(len(counts_S)), kind="stable")
    parts = []
    for start in range(0, len(shards_S), window_shards):
        window = shards_S[start : start + window_shards]
        examples_E = np.concatenate([np.arange(first_S[s], first_S[s] + counts_S[s]) for s in window])
        parts.append(examples_E[np.argsort(random.random_raw(len(examples_E)), kind="stable")])
    return np.concatenate(parts)


class EndlessOrder:
    """The examples at any range of positions; keeps the orders of two epochs, all a stream needs."""

    def __init__(self, examples_per_shard: Sequence[int], seed: int) -> None:
        self._examples_per_shard, self._seed = list(examples_per_shard), seed
        self._size = sum(self._examples_per_shard)
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def examples(self, start: int, stop: int) -> NDArray[np.int64]:
        """The examples at positions start..stop-1; a range may cross any number of epochs."""
        positions = np.arange(start, stop)
        epochs, places = np.divmod(positions, self._size)
        chosen = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = self._epoch(int(epoch))[places[here]]
        return chosen

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs = {old: order for old, order in self._epochs.items() if old == epoch - 1}
            self._epochs[epoch] = epoch_order(self._examples_per_shard, seed=self._seed, epoch=epoch)
        return self._epochs[epoch]


def evaluation_slice(num_examples: int, rank: int, world_size: int) -> range:
    """The contiguous examples rank `rank` evaluates: ceil(E / R) each, fewer or none for the last ranks."""
    share = -(-num_examples // world_size)
    return range(min(rank * share, num_examples), min((rank + 1) * share, num_examples))
