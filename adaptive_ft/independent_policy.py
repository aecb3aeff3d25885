"""Policies that do not look at the input: one pair of logits per decision, the same for every sample.

They answer what looking is worth. `LearnedPolicy` finds out which parts to tune, once for all inputs; `FixedPolicy`
tunes at random. In training every sample still draws its own gates from the logits, as with any policy.

Shape suffixes: B batch, D decisions; x2 = (frozen, tuned).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class LearnedPolicy(nn.Module):
    """Logits that train, of the initial probability at the start."""

    def __init__(self, input_names: frozenset[str], num_decisions: int, tuned_probability: float) -> None:
        super().__init__()
        self.input_names = input_names
        self.logits = nn.Parameter(logits_of(tuned_probability).repeat(num_decisions, 1))

    def forward(self, **inputs: Any) -> Tensor:
        """Logits [B, D, 2], the same for each sample of the backbone's own inputs."""
        return self.logits.repeat(_batch(inputs), 1, 1)


class FixedPolicy(nn.Module):
    """Logits that stay at the initial probability: nothing here trains, and nothing is saved."""

    logits: Tensor

    def __init__(self, input_names: frozenset[str], num_decisions: int, tuned_probability: float) -> None:
        super().__init__()
        self.input_names = input_names
        # The options say all there is to know of it.
        self.register_buffer("logits", logits_of(tuned_probability).repeat(num_decisions, 1), persistent=False)

    def forward(self, **inputs: Any) -> Tensor:
        """Logits [B, D, 2], the same for each sample of the backbone's own inputs."""
        return self.logits.repeat(_batch(inputs), 1, 1)


def logits_of(tuned_probability: float) -> Tensor:
    """The pair (f, t) with softmax(f, t)[1] = p: t = -f = ln(p / (1 - p)) / 2."""
    half_log_odds = 0.5 * math.log(tuned_probability / (1 - tuned_probability))
    return torch.tensor([-half_log_odds, half_log_odds])


def _batch(inputs: Mapping[str, Any]) -> int:
    """The batch size, by the first tensor that has one."""
    return next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor) and value.dim())
