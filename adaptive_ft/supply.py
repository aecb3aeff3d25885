"""How well the stream keeps up with training: the share of the steps' time spent waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.engine.ranks import Ranks


class SupplyMeter:
    """Times training steps and what of them was waiting for the stream's next batch."""

    def __init__(self, stream: TrainStream) -> None:
        self._stream = stream
        self._step_seconds = self._waited_before = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """One optimizer update, with the drawing of its batches."""
        began = time.perf_counter()
        yield
        self._step_seconds += time.perf_counter() - began

    def window(self, ranks: Ranks) -> dict[str, float]:
        """Since the last call, over all ranks (collective).

        data_stall_share: seconds waited / seconds of all steps; 0 before the first. data_skipped: damaged examples left
        out of training, each counted once whoever met it. Raises UserError, on every rank, where these are too many.
        """
        waited, bad = self._stream.seconds_waited, self._stream.bad
        own = [waited - self._waited_before, self._step_seconds, len(bad.left_out)]
        self._waited_before, self._step_seconds = waited, 0.0
        waiting, stepping, skipped = ranks.sum(torch.tensor(own, dtype=torch.float64)).tolist()
        if skipped:  # known to every rank, so that all go the same way
            everyone = ranks.broadcast(frozenset().union(*ranks.gather(bad.left_out)))
            bad.add(everyone)
            skipped = len(everyone)
        return {"data_stall_share": waiting / stepping if stepping else 0.0, "data_skipped": float(skipped)}
