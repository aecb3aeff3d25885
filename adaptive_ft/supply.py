"""How well the stream keeps up with training: the share of the steps' time spent waiting for data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from adaptive_ft.data.stream import TrainStream


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

    def window(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Since the last call, over all ranks; `total` sums a tensor over ranks.

        data_stall_share: seconds waited / seconds of all steps; 0 before the first. data_skipped: damaged examples left
        out of training since this process began.
        """
        waited = self._stream.seconds_waited
        own = [waited - self._waited_before, self._step_seconds, self._stream.skipped]
        self._waited_before, self._step_seconds = waited, 0.0
        waiting, stepping, skipped = total(torch.tensor(own, dtype=torch.float64)).tolist()
        return {"data_stall_share": waiting / stepping if stepping else 0.0, "data_skipped": skipped}
