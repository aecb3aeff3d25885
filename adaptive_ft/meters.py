"""Running means of a step's scalars: sums stay on their device until somebody asks, so no step waits for it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class MeanMeter:
    """Means over examples of named scalars; float64 sums on the device of the values, mergeable over ranks."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums = torch.zeros(1, dtype=torch.float64)

    def update(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add the means `values` of `count` examples (0-d tensors, detached)."""
        row = torch.stack([*(value.double() * count for value in values.values()), values_count(values, count)])
        if not self._names:
            self._names = list(values)
            self._sums = torch.zeros_like(row)
        self._sums = self._sums.to(row.device) + row

    def means(self) -> dict[str, float]:
        """Mean of every name, NaN before the first update."""
        *sums, count = self._sums.tolist()
        return {name: total / count if count else float("nan") for name, total in zip(self._names, sums, strict=True)}

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by those over all ranks (`total` sums a tensor over ranks)."""
        self._sums = total(self._sums)

    def settle(self, total: Callable[[Tensor], Tensor], keep: bool) -> None:
        """Move the sums of all ranks to the one rank that says `keep`, so that a checkpoint holds them all."""
        self.reduce(total)
        if not keep:
            self.clear()

    def clear(self) -> None:
        """Begin the sums anew; the names stay, so that all ranks sum tensors of one shape."""
        self._sums = torch.zeros_like(self._sums)

    def state_dict(self) -> dict[str, object]:
        """Names and sums."""
        return {"names": list(self._names), "sums": self._sums.tolist()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a `state_dict`."""
        names, sums = state["names"], state["sums"]
        assert isinstance(names, list)
        assert isinstance(sums, list)
        self._names = list(names)
        self._sums = torch.tensor(sums, dtype=torch.float64)


def values_count(values: Mapping[str, Tensor], count: int) -> Tensor:
    """The number of examples as a float64 scalar on the device of the values."""
    return next(iter(values.values())).new_full((), count, dtype=torch.float64)
