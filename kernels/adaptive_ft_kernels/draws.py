"""Whose gate gradient a step evaluates: random numbers that are repeatable, the same on every device, and capturable.

A counter on the device is hashed, so that a replayed CUDA graph draws anew each time, which it could not do with a
torch.Generator of its own. Shape suffixes: B samples, C components, M samples that are drawn.
"""

import math

import torch
from torch import Tensor

# Increment and multipliers of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


class Draws:
    """A sequence of draws of samples without replacement; `seed` starts it anew."""

    def __init__(self, seed: int = 0) -> None:
        self._counter: Tensor | None = None
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start anew: the same seed gives the same draws."""
        # Hashed, so that the second draw of one seed is not the first of the next.
        self._start = int(_hashed(torch.tensor(seed % (1 << 63))))
        if self._counter is not None:
            self._counter.fill_(self._start)

    def samples(self, batch: int, num_components: int, fraction: float, device: torch.device) -> Tensor:
        """M = ceil(fraction B) of B samples for each component, int32 [C, M] in rising order."""
        if self._counter is None or self._counter.device.type != device.type:
            self._counter = torch.full((), self._start, dtype=torch.int64, device=device)
        places_CB = torch.arange(num_components * batch, device=device).view(num_components, batch)
        keys_CB = _hashed(_hashed(self._counter) + places_CB * _GOLDEN)
        self._counter += 1
        num_drawn = math.ceil(fraction * batch)
        return keys_CB.argsort(dim=1)[:, :num_drawn].sort(dim=1).values.to(torch.int32)


def _hashed(numbers: Tensor) -> Tensor:
    """The output function of splitmix64: every bit of an int64 reaches every bit."""
    numbers = (numbers ^ _shifted(numbers, 30)) * _MULTIPLIERS[0]
    numbers = (numbers ^ _shifted(numbers, 27)) * _MULTIPLIERS[1]
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; PyTorch's copies the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
