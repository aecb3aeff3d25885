"""How a batch gets its gates: from the policy network, or from decisions that are given.

Shape suffixes: B batch, C components, D decisions; x2 = (frozen, tuned).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.gates import argmax_gates, straight_through_gumbel
from adaptive_ft.policy import Policy
from adaptive_ft.strategies import Tying


@dataclass(frozen=True)
class Decided:
    """The gates of one batch, per decision and per component, and the logits where the network ran."""

    gates_BD: Tensor
    gates_BC: Tensor
    logits_BD2: Tensor | None = None


class Decider:
    """Turns what the policy says about a batch, or what is forced on it, into gates."""

    def __init__(self, tying: Tying, config: AdaptiveConfig) -> None:
        self.tying = tying
        self.eval_decisions = config.eval_decisions
        self.temperature = config.temperature
        """Of the next training step; `AdaptiveModel.anneal` moves it."""

    def from_network(self, network: Policy | None, inputs: Mapping[str, Any], *, training: bool) -> Decided:
        """Gates from the policy network; a strategy without decisions has none and needs no network.

        Raises ValueError for inputs of different batch sizes.
        """
        batch, device = batch_of(inputs)
        if network is None:
            return self._tied(torch.zeros(batch, 0, device=device))
        logits_BD2 = network(**{name: value for name, value in inputs.items() if name in network.input_names})
        return self._tied(self._gates(logits_BD2, training), logits_BD2)

    def forced(self, policy: Tensor | str, inputs: Mapping[str, Any]) -> Decided:
        """Gates from a [B, D] tensor of 0 and 1 (constants of the strategy stay), or of a word of the strategy's place.

        Raises ValueError for another shape, value or word, and for inputs of different batch sizes.
        """
        batch, device = batch_of(inputs)
        num_decisions = len(self.tying.decisions)
        if not isinstance(policy, str):
            return self._tied(checked(policy, (batch, num_decisions)).to(device))
        constants = self.tying.place.constants
        if policy not in constants:
            words = ", ".join(f"'{word}'" for word in constants)
            raise ValueError(f"policy '{policy}' is unknown to this strategy; give {words}, a tensor or None.")
        columns = (num_decisions, len(self.tying.index))
        gates_BD, gates_BC = (torch.full((batch, count), constants[policy], device=device) for count in columns)
        return Decided(gates_BD, gates_BC)

    def _gates(self, logits_BD2: Tensor, training: bool) -> Tensor:
        """Decisions from logits: sampled in training, the likelier choice in evaluation."""
        if training or self.eval_decisions == "sample":
            return straight_through_gumbel(logits_BD2, self.temperature)
        return argmax_gates(logits_BD2)

    def _tied(self, gates_BD: Tensor, logits_BD2: Tensor | None = None) -> Decided:
        return Decided(gates_BD, self.tying.expand(gates_BD), logits_BD2)


def batch_of(inputs: Mapping[str, Any]) -> tuple[int, torch.device]:
    """The batch size all input tensors share, and their device. Raises ValueError when they differ."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.dim()}
    sizes = {name: value.shape[0] for name, value in tensors.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"all inputs must have one batch size as their first dimension, they have {sizes}.")
    return next(iter(sizes.values())), next(iter(tensors.values())).device


def checked(decisions: Tensor, shape: tuple[int, int]) -> Tensor:
    """Given decisions as floating-point gates. Raises ValueError for another shape or values but 0 and 1."""
    if tuple(decisions.shape) != shape:
        raise ValueError(
            f"forced decisions have shape {list(decisions.shape)}; inputs and strategy need {list(shape)}."
        )
    if not bool(((decisions == 0) | (decisions == 1)).all()):
        raise ValueError("forced decisions must be 0 (frozen) or 1 (tuned) everywhere.")
    return decisions if decisions.is_floating_point() else decisions.float()
