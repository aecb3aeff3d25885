"""A trained run's decisions flipped one at a time, to hold what its gate gradient predicts against what happens.

Shapes: N samples, B rows of a batch, D decisions, L live decisions, x2 = (frozen, tuned).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.analysis.flips import Flips, kinds_of
from adaptive_ft.data.reading.bad_samples import StopAtBad
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.shard_reader import open_reader
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.examining import spread
from adaptive_ft.gates import argmax_gates, straight_through_gumbel
from adaptive_ft.saving import Restored
from adaptive_ft.strategies import Tying
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.task import Task
from adaptive_ft.two_branch import check_two_branches, mix_outputs, unmix_outputs

Gates = Literal["argmax", "sample"]
Losses = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FlipPlan:
    """How decisions are flipped: of `samples` examples, `rows` at a time, starting from which gates;
    `two_branch`: with the gate gradients of both branches too.
    """

    samples: int
    rows: int
    gates: Gates = "argmax"
    two_branch: bool = False


def flip_decisions(restored: Restored, shards: ShardSet, plan: FlipPlan, shown: Callable[[], None]) -> Flips:
    """Flip every live decision of some examples, spread evenly over `shards`, each alone.

    In evaluation mode and float32: one backward pass gives all gradients, one forward pass per live decision the true
    changes; `shown` is called after each of these.

    Raises:
        UserError: the run's strategy decides nothing, the shards have no answers, or its model has no two_branch gate
            gradients.
    """
    tying, strategy = restored.model.tying, restored.config.adapt.strategy
    if not tying.decisions:
        raise UserError(f"Strategy '{strategy}' has no decisions to flip: name a run with a policy.")
    if not shards.manifest.answered:
        raise UserError(f"'{shards.address}' has no answers, so there is no loss to compare: name other --shards.")
    model = restored.model.to(device()).eval()
    unmix_outputs(model.base)  # those of a run that was trained by two branches
    if plan.two_branch:
        check_two_branches(model.base, model.anatomy, tying)
    own = shards.for_stream()
    reader = open_reader(own, StopAtBad(), BatchMemory(1))
    numbers = spread(plan.samples, shards.num_examples)
    questions, found = [], []
    try:
        for start in range(0, len(numbers), plan.rows):
            batch = restored.task.collate(reader.read_batch(numbers[start : start + plan.rows])).to(device())
            questions += [question.question_id for question in batch.questions]
            gates_BD = decided(model, batch, plan.gates)
            flips = flipped(model, restored.task, batch, gates_BD, shown)
            if plan.two_branch:
                flips["two_branch_ND"] = two_branch_gradient(model, restored.task, batch, gates_BD)
            found.append(flips)
    finally:
        reader.close()
        own.files.close()
    names = [name for name, live in zip(tying.decisions, tying.live, strict=True) if live]
    columns = {name: torch.cat([part[name] for part in found]).double().cpu().numpy() for name in found[0]}
    return Flips(questions, names, kinds_of(tying, model.components), **columns)


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def decided(model: AdaptiveModel, batch: TaskBatch, gates: Gates) -> Tensor:
    """The gates [B, D] that the run evaluates a batch with, or those that the policy network draws in training."""
    decider = model.decider
    with torch.no_grad():
        if gates == "argmax" and (word := decider.default(training=False)):
            return decider.forced(word, batch.inputs).gates_BD
        logits_BD2 = decider.from_network(model.policy, batch.inputs, training=False).logits_BD2
        assert logits_BD2 is not None
        if gates == "sample":
            return straight_through_gumbel(logits_BD2, decider.temperature)
        return argmax_gates(logits_BD2)


def flipped(
    model: AdaptiveModel, task: Task, batch: TaskBatch, gates_BD: Tensor, shown: Callable[[], None]
) -> dict[str, Tensor]:
    """The columns of `Flips` for a batch: losses [B], and gates, their gradients and the true changes [B, L].

    All gate gradients are evaluated, whatever share the run's training did.
    """
    losses = _losses(model, task, batch)
    model.holder.gate_grad_fraction = 1.0
    live = _live(model.tying)
    changes = []
    with torch.no_grad():
        before_B = losses(gates_BD)
        for number in live:
            other_BD = gates_BD.clone()
            other_BD[:, number] = 1 - other_BD[:, number]
            changes.append(losses(other_BD) - before_B)
            shown()
    return {
        "losses_N": before_B,
        "gates_ND": gates_BD[:, live],
        "gradient_ND": _gradient(losses, gates_BD)[:, live],
        "change_ND": torch.stack(changes, dim=1),
    }


def two_branch_gradient(model: AdaptiveModel, task: Task, batch: TaskBatch, gates_BD: Tensor) -> Tensor:
    """The gate gradient [B, L] of `model` where it computes both branches."""
    mix_outputs(model.base, model.anatomy, model.holder)
    try:
        return _gradient(_losses(model, task, batch), gates_BD)[:, _live(model.tying)]
    finally:
        unmix_outputs(model.base)


def _losses(model: AdaptiveModel, task: Task, batch: TaskBatch) -> Losses:
    """The losses [B] of a batch for forced decisions [B, D]."""
    return lambda decisions_BD: task.losses(task.logits(model(**batch.inputs, policy=decisions_BD)), batch)


def _live(tying: Tying) -> list[int]:
    return [number for number, is_live in enumerate(tying.live) if is_live]


def _gradient(losses: Losses, gates_BD: Tensor) -> Tensor:
    """dL[b] / dg[b, d] for each sample's own loss; 0 for a decision that reaches none."""
    asked_BD = gates_BD.clone().requires_grad_()
    (gradient_BD,) = torch.autograd.grad(losses(asked_BD).sum(), asked_BD)
    return gradient_BD
