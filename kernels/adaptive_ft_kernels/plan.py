"""Partitions the gates of a step once: for each column, which samples are frozen and which are tuned.

All gates of a step are known before the main network runs, so one partition serves every layer, forward and
backward. It stays on the device: nothing here waits for it. Shape suffixes: B samples, C components, M samples
whose gate gradient is evaluated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_ft_kernels.dispatch import code_for
from adaptive_ft_kernels.draws import Draws


class FaultyGates(ValueError):
    """Gates that are neither 0 nor 1."""


@dataclass(frozen=True, eq=False)
class GatePlan:
    """Which samples are tuned, column by column, on the device of the gates.

    `order_CB`: int32, the samples of each column, frozen ones first, in rising order within both groups.
    `num_frozen_C`: int32, how many of them are frozen. `sampled_CM`: int32, the samples whose gate gradient is
    evaluated, without repetition (M = B: all). `num_faulty`: int32 scalar, how many gates were neither 0 nor 1.
    """

    batch: int
    order_CB: Tensor
    num_frozen_C: Tensor
    sampled_CM: Tensor
    num_faulty: Tensor

    @property
    def num_components(self) -> int:
        """How many columns the plan covers."""
        return self.order_CB.shape[0]

    def columns(self, start: int, stop: int) -> "GatePlan":
        """The plan of columns `start:stop` alone, sharing the memory of this one."""
        chosen = slice(start, stop)
        return GatePlan(
            self.batch, self.order_CB[chosen], self.num_frozen_C[chosen], self.sampled_CM[chosen], self.num_faulty
        )

    def constant(self, gate: float) -> "GatePlan":
        """The plan of as many samples and columns where every gate is `gate`, 0 or 1; there is nothing to sort."""
        assert gate in (0, 1), gate
        order_B = torch.arange(self.batch, dtype=torch.int32, device=self.order_CB.device)
        order_CB = order_B.repeat(self.num_components, 1)
        num_frozen_C = torch.full_like(self.num_frozen_C, 0 if gate else self.batch)
        return GatePlan(self.batch, order_CB, num_frozen_C, _another(order_CB), torch.zeros_like(self.num_faulty))

    def fits(self, batch: int, num_components: int) -> None:
        """Raises ValueError unless the plan was made for `batch` samples and `num_components` columns."""
        if (self.batch, self.num_components) != (batch, num_components):
            raise ValueError(
                f"the plan covers {self.batch} samples and {self.num_components} components, "
                f"the gates {batch} and {num_components}"
            )


def plan_gates(gates_BC: Tensor, *, gate_grad_fraction: float = 1.0, draws: Draws | None = None) -> GatePlan:
    """Partitions a batch of gates [B, C] of any dtype.

    gate_grad_fraction: the share r of samples whose gate gradient is evaluated. Each column gets M = ceil(r B)
    samples of its own from `draws`, without replacement, and what they receive is multiplied by B / M, so that the
    gradient stays unbiased. On a CPU this takes about 0.3 ms for 256 samples and 425 columns.

    Raises FaultyGates, a ValueError, for gates other than 0 and 1 on a CPU; on a GPU that would have to wait for
    the device, so it counts them in `num_faulty`. Raises ValueError for gates that are no table, for a fraction
    outside (0, 1], and for one below 1 without draws.
    """
    if gates_BC.dim() != 2:
        raise ValueError(f"gates must have shape [samples, components], got {list(gates_BC.shape)}")
    if not 0 < gate_grad_fraction <= 1:
        raise ValueError(f"gate_grad_fraction is {gate_grad_fraction}; it lies above 0 and is at most 1")
    gates_BC = gates_BC.detach()
    order_CB, num_frozen_C, num_faulty = code_for(gates_BC).partition.partition(gates_BC)
    if gates_BC.device.type == "cpu" and num_faulty:
        _refuse(gates_BC)
    batch, num_components = gates_BC.shape
    if gate_grad_fraction == 1:
        sampled_CM = _another(order_CB)
    elif draws is None:
        raise ValueError(f"gate_grad_fraction is {gate_grad_fraction}: give the draws it samples with")
    else:
        sampled_CM = draws.samples(batch, num_components, gate_grad_fraction, gates_BC.device)
    return GatePlan(batch, order_CB, num_frozen_C, sampled_CM, num_faulty)


def _another(order_CB: Tensor) -> Tensor:
    """The same samples as another tensor: torch.compile refuses one as two arguments of an autograd function."""
    return order_CB.view(order_CB.shape)


def _refuse(gates_BC: Tensor) -> None:
    faulty_BC = (gates_BC != 0) & (gates_BC != 1)
    sample, column = (int(index) for index in faulty_BC.nonzero()[0])
    raise FaultyGates(
        f"gates must be exactly 0 (frozen) or 1 (tuned): sample {sample}, column {column} is "
        f"{gates_BC[sample, column].item()}. Use straight-through or argmax gates; a value that is not a "
        "number means that the policy's logits have diverged."
    )
