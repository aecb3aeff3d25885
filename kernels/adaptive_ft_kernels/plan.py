"""Reads a batch of 0/1 gates once and says, for each module, which samples use which weights.

Gates live on the device, but grouping samples by gate needs the counts on the host. All gates of a step are
known before the main network runs, so one copy to the host serves every module: `plan_gates` makes it, and
each module takes its own columns. Shape suffixes: B samples, C components.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Piece:
    """One share of a module's work: components `start:stop` of these samples, all with the same weights.

    `samples` holds int64 batch positions on the gates' device; None means the whole batch in its own order,
    so that nothing has to be gathered.
    """

    start: int
    stop: int
    tuned: bool
    samples: Tensor | None

    def take(self, x: Tensor) -> Tensor:
        """The rows of this piece's samples; `x` itself, not a copy, when they are the whole batch."""
        return x if self.samples is None else x.index_select(0, self.samples)

    def put(self, y: Tensor, values: Tensor) -> None:
        """Writes `values`, one row block per sample of this piece, to their places in `y`."""
        if self.samples is None:
            y.copy_(values)
        else:
            y.index_copy_(0, self.samples, values)


@dataclass(frozen=True, eq=False)
class GatePlan:
    """Which samples are tuned, column by column.

    `order_CB`: int64, the samples of each column, frozen ones first, in rising order within both groups.
    `num_frozen`: how many of them are frozen, per column. `patterns`: equal bytes where columns are equal.
    """

    batch: int
    order_CB: Tensor
    num_frozen: tuple[int, ...]
    patterns: tuple[bytes, ...]

    def columns(self, start: int, stop: int) -> "GatePlan":
        """The plan of columns `start:stop` alone, sharing the memory of this one."""
        return GatePlan(self.batch, self.order_CB[start:stop], self.num_frozen[start:stop], self.patterns[start:stop])

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The least work that covers every (sample, component) once; neighbouring equal columns go together.

        One piece exactly where all gates are equal. Pieces come in rising order of `start`, frozen first.
        """
        return tuple(piece for start, stop in self._runs() for piece in self._split(start, stop))

    def _runs(self) -> Iterator[tuple[int, int]]:
        start = 0
        for _, equal in groupby(self.patterns):
            stop = start + len(list(equal))
            yield start, stop
            start = stop

    def _split(self, start: int, stop: int) -> list[Piece]:
        num_frozen = self.num_frozen[start]
        if num_frozen == self.batch:
            return [Piece(start, stop, False, None)]
        if num_frozen == 0:
            return [Piece(start, stop, True, None)]
        order_B = self.order_CB[start]
        return [
            Piece(start, stop, False, order_B[:num_frozen]),
            Piece(start, stop, True, order_B[num_frozen:]),
        ]


def plan_gates(gates_BC: Tensor) -> GatePlan:
    """Plans a batch of gates [B, C] of any dtype, with one wait for the device.

    About 0.5 ms on a CPU for 256 samples and 425 columns. Raises ValueError unless all gates are 0 or 1.
    """
    if gates_BC.dim() != 2:
        raise ValueError(f"gates must have shape [samples, components], got {list(gates_BC.shape)}")
    on_host = gates_BC.detach().to("cpu", torch.float32)
    tuned_CB = np.ascontiguousarray(on_host.numpy().T != 0)
    _refuse_soft_gates(on_host)
    # On bytes numpy's stable sort is a radix sort: linear in the number of samples.
    order_CB = np.argsort(tuned_CB.view(np.uint8), axis=1, kind="stable")
    num_frozen_C = on_host.shape[0] - tuned_CB.sum(axis=1)
    return GatePlan(
        batch=on_host.shape[0],
        order_CB=torch.from_numpy(order_CB).to(gates_BC.device),
        num_frozen=tuple(num_frozen_C.tolist()),
        patterns=tuple(row.tobytes() for row in tuned_CB),
    )


def _refuse_soft_gates(gates_BC: Tensor) -> None:
    soft_BC = (gates_BC != 0) & (gates_BC != 1)
    if soft_BC.any():
        sample, column = (int(index) for index in soft_BC.nonzero()[0])
        raise ValueError(
            f"gates must be exactly 0 (frozen) or 1 (tuned): sample {sample}, column {column} is "
            f"{gates_BC[sample, column].item()}. Use straight-through or argmax gates; a value that is not a "
            "number means that the policy's logits have diverged."
        )
