"""Auxiliary losses on the policy: how many decisions are tuned, and how sure each one is.

All of them read the tuned fraction f_d of every live decision: the mean of its gates over the batch of ALL
ranks. Dead decisions have no effect on the task and do not count. A scale of 0 turns a loss off. The budget counts
components, so that one share means the same to every strategy; the others count decisions, as the original.

Shape suffixes: B batch, D decisions, L live decisions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adaptive_ft.components import columns_on
from adaptive_ft.errors import UserError

# The original's constant: keeps ln f finite where a decision is never taken.
EPSILON = 1e-9


@dataclass
class PolicyLossConfig:
    """Scales and targets of the policy losses; a scale of 0 turns a loss off, as all are by default."""

    constrain_k_scale: float = 0.0
    """Scale of (number of tuned decisions - constrain_k)^2; the original's is 1."""
    constrain_k: float = 4.0
    """Wanted number of tuned decisions."""
    deterministic_scale: float = 0.0
    """Scale of the original's one-sided entropy of the decisions."""
    binary_entropy_scale: float = 0.0
    """Scale of the entropy of the decisions."""
    budget_scale: float = 0.0
    """Scale of the loss on the share of tuned components."""
    budget: float = 0.5
    """Share of tuned components that costs nothing, from 0 to 1."""
    budget_form: Literal["hinge", "squared"] = "hinge"
    """hinge: max(0, share - budget), tuning less is free. squared: (share - budget)^2, tuning less costs as well."""

    def __post_init__(self) -> None:
        scales = ("constrain_k_scale", "deterministic_scale", "binary_entropy_scale", "budget_scale")
        for name in scales:
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; a scale is 0 (off) or positive.")
        if not 0 <= self.budget <= 1:
            raise UserError(f"budget is {self.budget}; it is a share of the components, from 0 to 1.")
        if self.budget_form not in BUDGET_FORMS:
            raise UserError(f"unknown budget_form '{self.budget_form}'; choose one of {', '.join(BUDGET_FORMS)}.")


def constrain_k(fraction_L: Tensor, k: float) -> Tensor:
    """Pull the expected number of tuned decisions to k: (sum_d f_d - k)^2.

    Source: docs/method.md 4.
    """
    return (fraction_L.sum() - k) ** 2


def deterministic(fraction_L: Tensor) -> Tensor:
    """The original's one-sided entropy: sum_d -f_d ln f_d with f_d + 1e-9.

    Not the entropy of a yes-no decision: it pushes f below 1/e to 0 and f above 1/e to 1, with slope +19.7
    at 0 but only -1 at 1. Kept as the original has it; `binary_entropy` is the symmetric form. Source:
    docs/method.md 4.
    """
    shifted_L = fraction_L + EPSILON
    return -(shifted_L * shifted_L.log()).sum()


def binary_entropy(fraction_L: Tensor) -> Tensor:
    """Entropy of the yes-no decisions over the batch: sum_d -f_d ln f_d - (1 - f_d) ln(1 - f_d).

    Pushes every decision towards "always" or "never", both equally.
    Source: docs/method.md 4.
    """
    return deterministic(fraction_L) + deterministic(1 - fraction_L)


def tuned_share(fraction_L: Tensor, num_components: Sequence[int]) -> Tensor:
    """The expected share of tuned components: sum_d n_d f_d / sum_d n_d, n_d live components under decision d."""
    weights_L = fraction_L.new_tensor(num_components)
    return fraction_L @ (weights_L / weights_L.sum())


def budget_hinge(share: Tensor, budget: float) -> Tensor:
    """Charge only what is above the budget: max(0, share - budget).

    The one-sided form: below the budget there is no gradient. Source: docs/method.md 4.
    """
    return torch.relu(share - budget)


def budget_squared(share: Tensor, budget: float) -> Tensor:
    """Pull the share to the budget from both sides: (share - budget)^2.

    `constrain_k` as a share, the usage loss of AdaViT. Source: Meng et al., arXiv:2111.15668.
    """
    return (share - budget) ** 2


BUDGET_FORMS = {"hinge": budget_hinge, "squared": budget_squared}


def this_rank_only(fraction_L: Tensor) -> Tensor:
    """The global mean of a single process: the fraction itself."""
    return fraction_L


def policy_losses(
    gates_BD: Tensor,
    config: PolicyLossConfig,
    num_live: Sequence[int] | None = None,
    global_mean: Callable[[Tensor], Tensor] = this_rank_only,
) -> dict[str, Tensor]:
    """All losses that are switched on, scaled, by name; their sum is added to the task loss.

    gates_BD: straight-through gates of this rank. num_live: the live components under each decision
    (`Tying.num_live`); None counts one each. global_mean: maps this rank's fractions [L] to the mean over ranks of
    equal batch size. Its value is the mean, its gradient with respect to the local fractions must be the identity,
    because the engine averages the gradients of the ranks. Without decisions there is no loss.
    """
    scales = (config.constrain_k_scale, config.deterministic_scale, config.binary_entropy_scale, config.budget_scale)
    if not any(scales):
        return {}  # before `global_mean`: with everything off a step must not wait for the other ranks here
    num_live = (1,) * gates_BD.shape[1] if num_live is None else num_live
    counted = tuple(decision for decision, number in enumerate(num_live) if number)
    if not counted:
        return {}
    gates_BL = gates_BD[:, columns_on(counted, gates_BD.device)]
    fraction_L = global_mean(gates_BL.mean(dim=0))
    charge = BUDGET_FORMS[config.budget_form]
    sizes = [num_live[decision] for decision in counted]
    losses = {
        "constrain_k": (config.constrain_k_scale, lambda: constrain_k(fraction_L, config.constrain_k)),
        "deterministic": (config.deterministic_scale, lambda: deterministic(fraction_L)),
        "binary_entropy": (config.binary_entropy_scale, lambda: binary_entropy(fraction_L)),
        "budget": (config.budget_scale, lambda: charge(tuned_share(fraction_L, sizes), config.budget)),
    }
    return {name: scale * loss() for name, (scale, loss) in losses.items() if scale}
