"""How the operands of the gated operations lie in memory: numbers one after the other, three axes."""

from typing import Any

from torch import Tensor


def contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Each tensor with its numbers one after the other, as the kernels address them; copied only if they are not."""
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def rows_of(x: Tensor) -> Tensor:
    """[samples, rows, features]: the axes of `x` between the first and the last become one."""
    return x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
