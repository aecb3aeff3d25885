"""In which order training sees the examples: a pure function of (seed, epoch), whatever the ranks or readers.

Positions count examples over an endless concatenation of epochs. Shape suffixes: S shards, E examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 16
MOST_PLANNED = 2 * WINDOW_SHARDS
"""Shards that `shards_ahead` names at most: a window and the one after it."""


def epoch_order(
    examples_per_shard: Sequence[int], *, seed: int, epoch: int, window_shards: int = WINDOW_SHARDS
) -> NDArray[np.int64]:
    """The examples [E] of one epoch, each once: shards shuffled, then examples within windows of W shards.

    A window bounds how many shards are read at a time; its shards change from epoch to epoch. At most W
    shards in all: a full shuffle. Source: docs/method.md 7.
    """
    counts_S = np.asarray(examples_per_shard, dtype=np.int64)
    first_S = np.cumsum(counts_S) - counts_S
    random = _random(seed, epoch)
    parts = []
    for window in _windows(len(counts_S), random, window_shards):
        examples_E = np.concatenate([np.arange(first_S[s], first_S[s] + counts_S[s]) for s in window])
        parts.append(examples_E[np.argsort(random.random_raw(len(examples_E)), kind="stable")])
    return np.concatenate(parts)


def epoch_windows(num_shards: int, *, seed: int, epoch: int, window_shards: int = WINDOW_SHARDS) -> list[list[int]]:
    """The shards of an epoch's windows, in the order in which `epoch_order` comes to them."""
    return [window.tolist() for window in _windows(num_shards, _random(seed, epoch), window_shards)]


def _random(seed: int, epoch: int) -> np.random.Philox:
    # Raw Philox words and a stable sort: numpy promises these for ever, unlike Generator.permutation.
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))


def _windows(num_shards: int, random: np.random.Philox, window_shards: int) -> list[NDArray[np.int64]]:
    shards_S = np.argsort(random.random_raw(num_shards), kind="stable")
    return [shards_S[start : start + window_shards] for start in range(0, num_shards, window_shards)]


class EndlessOrder:
    """The examples at any range of positions; keeps the orders of two epochs, all a stream needs."""

    def __init__(self, examples_per_shard: Sequence[int], seed: int) -> None:
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed {seed} is none: it lies from 0 to 2^64 - 1")
        self._examples_per_shard, self._seed = list(examples_per_shard), seed
        self._size = sum(self._examples_per_shard)
        self._epochs: dict[int, NDArray[np.int64]] = {}
        self._windows_of = -1

    def examples(self, start: int, stop: int) -> NDArray[np.int64]:
        """The examples at positions start..stop-1; a range may cross any number of epochs."""
        epochs = range(start // self._size, -(-stop // self._size))
        return np.concatenate(
            [self._epoch(epoch)[max(start - epoch * self._size, 0) : stop - epoch * self._size] for epoch in epochs]
        )

    def shards_ahead(self, position: int) -> list[int]:
        """The shards of the window that holds `position` and of the one after it, which may be the next epoch's."""
        epoch, place = divmod(position, self._size)
        windows, ends = self._windows(epoch)
        here = int(np.searchsorted(ends, place, side="right"))
        return list(dict.fromkeys([*windows[here], *windows[here + 1]]))

    def _windows(self, epoch: int) -> tuple[list[list[int]], NDArray[np.int64]]:
        """The windows of an epoch and of the next, and where each ends, counted from the beginning of the epoch."""
        if epoch != self._windows_of:
            shards, seed = len(self._examples_per_shard), self._seed
            windows = [
                *epoch_windows(shards, seed=seed, epoch=epoch),
                *epoch_windows(shards, seed=seed, epoch=epoch + 1),
            ]
            ends = np.cumsum([sum(self._examples_per_shard[shard] for shard in window) for window in windows])
            self._windows_of, self._windows_there = epoch, (windows, ends)
        return self._windows_there

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs = {old: order for old, order in self._epochs.items() if old == epoch - 1}
            self._epochs[epoch] = epoch_order(self._examples_per_shard, seed=self._seed, epoch=epoch)
        return self._epochs[epoch]


def evaluation_slice(num_examples: int, rank: int, world_size: int) -> range:
    """The contiguous examples rank `rank` evaluates: ceil(E / R) each, fewer or none for the last ranks."""
    share = -(-num_examples // world_size)
    return range(min(rank * share, num_examples), min((rank + 1) * share, num_examples))
