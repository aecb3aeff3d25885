"""The least work that covers every (sample, component) once, for operations that need group sizes on the host.

On a CPU reading them costs nothing. Shape suffixes: B samples, C components.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """One share of a module's work: components `start:stop` of these samples, all with the same weights.

    `samples` holds int64 batch positions; None means the whole batch in its own order, so that nothing has to be
    gathered.
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


def pieces(order_CB: Tensor, num_frozen_C: Tensor) -> tuple[Piece, ...]:
    """The pieces of a plan's columns; neighbouring equal columns go together.

    One piece exactly where all gates are equal. Pieces come in rising order of `start`, frozen first.
    """
    order_CB = order_CB.long()
    return tuple(
        piece
        for start, stop, num_frozen in _runs(order_CB, num_frozen_C)
        for piece in _groups(order_CB, start, stop, num_frozen)
    )


def _runs(order_CB: Tensor, num_frozen_C: Tensor) -> Iterator[tuple[int, int, int]]:
    """Neighbouring columns with equal gates: first column, one past the last, number of frozen samples."""
    num_frozen = num_frozen_C.tolist()
    # Both groups are in rising order, so equal orders and counts mean equal gates.
    patterns = [row.tobytes() for row in order_CB.cpu().numpy()]
    start = 0
    for (count, _), equal in groupby(zip(num_frozen, patterns, strict=True)):
        stop = start + len(list(equal))
        yield start, stop, count
        start = stop


def _groups(order_CB: Tensor, start: int, stop: int, num_frozen: int) -> list[Piece]:
    batch = order_CB.shape[1]
    if num_frozen == batch:
        return [Piece(start, stop, False, None)]
    if num_frozen == 0:
        return [Piece(start, stop, True, None)]
    order_B = order_CB[start]
    return [Piece(start, stop, False, order_B[:num_frozen]), Piece(start, stop, True, order_B[num_frozen:])]
