"""How a batch gets its gates: from the policy network, or from decisions that are given.

Shape suffixes: B batch, C components, D decisions; x2 = (frozen, tuned).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.errors import UserError
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
        self.strategy = config.strategy
        self.eval_decisions = config.eval_decisions
        self.temperature = config.temperature
        """Of the next training step; `AdaptiveModel.anneal` moves it."""
        self._global_D: Tensor | None = None

    @property
    def global_decisions(self) -> Tensor | None:
        """One decision for all inputs, bool [D] on the CPU, or None before there is one; a copy, as what is set."""
        return None if self._global_D is None else self._global_D.clone()

    @global_decisions.setter
    def global_decisions(self, decisions_D: Tensor | None) -> None:
        if decisions_D is not None:
            decisions_D = checked(decisions_D.detach(), (len(self.tying.decisions),)).to("cpu", torch.bool, copy=True)
        self._global_D = decisions_D

    def default(self, *, training: bool) -> str | None:
        """The word that rules where no policy is given; None where the network does."""
        return "global" if self.eval_decisions == "global" and not training else None

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
        """Gates from a [B, D] tensor of 0 and 1 or the "global" decision (constants of the strategy stay), or of a word
        of the strategy's place.

        Raises ValueError for another shape, value or word, and for inputs of different batch sizes; UserError for
        "global" before there is a global decision.
        """
        batch, device = batch_of(inputs)
        if isinstance(policy, str):
            return self._worded(policy, batch, device)
        return self._tied(checked(policy, (batch, len(self.tying.decisions))).to(device))

    def for_all_inputs(self, decision: Tensor | str | None) -> Tensor:
        """The gates [C] of one decision for all inputs: 0 and 1 [D], "global" or a word of the strategy's unit.

        None will do for a strategy without decisions. Raises UserError where the policy decides per input and no
        decision is given: one set of weights cannot stand for all inputs; ValueError as `forced`.
        """
        num_decisions = len(self.tying.decisions)
        if decision is None:
            if num_decisions:
                raise UserError(
                    f"strategy '{self.strategy}' decides per input, so it cannot be merged into one set of weights; "
                    f"give a decision: {self._words()} or a tensor of {num_decisions} zeros and ones."
                )
            decision = torch.zeros(0)
        if isinstance(decision, str):
            return self._worded(decision, 1, torch.device("cpu")).gates_BC[0]
        return self.tying.expand(checked(decision, (num_decisions,)).unsqueeze(0))[0]

    def _worded(self, word: str, batch: int, device: torch.device) -> Decided:
        """The gates that a word stands for."""
        if word == "global":
            return self._tied(self._global(device).expand(batch, -1))
        constants = self.tying.unit.constants
        if word not in constants:
            raise ValueError(f"policy '{word}' is unknown to this strategy; give {self._words()}, a tensor or None.")
        columns = (len(self.tying.decisions), len(self.tying.index))
        gates_BD, gates_BC = (torch.full((batch, count), constants[word], device=device) for count in columns)
        return Decided(gates_BD, gates_BC)

    def _words(self) -> str:
        """The words that stand for gates, as a list to read."""
        return ", ".join(f"'{word}'" for word in (*self.tying.unit.constants, "global"))

    def _global(self, device: torch.device) -> Tensor:
        """The global decision as gates [D]; a strategy without decisions needs none."""
        if not self.tying.decisions:
            return torch.zeros(0, device=device)
        if self._global_D is None:
            raise UserError(
                "there is no global decision yet: it is the majority of an epoch's training decisions. Train for an "
                "epoch, or set model.global_decisions."
            )
        return self._global_D.to(device, torch.float32)

    def _gates(self, logits_BD2: Tensor, training: bool) -> Tensor:
        """Decisions from logits: sampled in training, the likelier choice in evaluation."""
        if training or self.eval_decisions == "sample":
            return straight_through_gumbel(logits_BD2, self.temperature)
        return argmax_gates(logits_BD2)

    def _tied(self, gates_BD: Tensor, logits_BD2: Tensor | None = None) -> Decided:
        return Decided(gates_BD, self.tying.expand(gates_BD), logits_BD2)


def batch_of(inputs: Mapping[str, Any]) -> tuple[int, torch.device]:
    """The batch size all input tensors share, and their device. Raises ValueError when they differ or it is 0."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.dim()}
    sizes = {name: value.shape[0] for name, value in tensors.items()}
    if not tensors:
        raise ValueError("no input is a tensor with a batch axis; give the base model's inputs by name.")
    if len(set(sizes.values())) != 1:
        raise ValueError(f"all inputs must have one batch size as their first dimension, they have {sizes}.")
    if 0 in sizes.values():
        raise ValueError(f"the batch is empty: {sizes}; give at least one sample.")
    return next(iter(sizes.values())), next(iter(tensors.values())).device


def checked(decisions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Given decisions as floating-point gates. Raises ValueError for another shape or values but 0 and 1."""
    if tuple(decisions.shape) != shape:
        raise ValueError(
            f"forced decisions have shape {list(decisions.shape)}; inputs and strategy need {list(shape)}."
        )
    if not bool(((decisions == 0) | (decisions == 1)).all()):
        raise ValueError("forced decisions must be 0 or 1 everywhere.")
    return decisions if decisions.is_floating_point() else decisions.float()
