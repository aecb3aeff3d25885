"""A trained run's decisions flipped one at a time, to hold what its gate gradient predicts against what happens.

Shapes: N samples, B rows of a batch, D decisions, L live decisions, x2 = (frozen, tuned).
"""

from collections.abc import Callable
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
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.task import Task

Gates = Literal["argmax", "sample"]
Found = tuple[Tensor, Tensor, Tensor, Tensor]


def flip_decisions(
    restored: Restored, shards: ShardSet, samples: int, gates: Gates, rows: int, shown: Callable[[], None]
) -> Flips:
    """Flip every live decision of `samples` examples, spread evenly over `shards`, each alone.

    In evaluation mode and float32, `rows` examples at a time: one backward pass gives all gradients, one forward pass
    per live decision the true changes. `gates`: the likelier choice of the policy network, or drawn as in training.
    `shown` is called after each of these forward passes.

    Raises:
        UserError: the run's strategy decides nothing, or the shards have no answers.
    """
    tying, strategy = restored.model.tying, restored.config.adapt.strategy
    if not tying.decisions:
        raise UserError(f"Strategy '{strategy}' has no decisions to flip: name a run with a policy.")
    if not shards.manifest.answered:
        raise UserError(f"'{shards.address}' has no answers, so there is no loss to compare: name other --shards.")
    model = restored.model.to(device()).eval()
    own = shards.for_stream()
    reader = open_reader(own, StopAtBad(), BatchMemory(1))
    numbers = spread(samples, shards.num_examples)
    questions, found = [], []
    try:
        for start in range(0, len(numbers), rows):
            batch = restored.task.collate(reader.read_batch(numbers[start : start + rows])).to(device())
            questions += [question.question_id for question in batch.questions]
            found.append(flipped(model, restored.task, batch, decided(model, batch, gates), shown))
    finally:
        reader.close()
        own.files.close()
    columns = zip(*found, strict=True)
    losses_N, gates_NL, gradient_NL, change_NL = (torch.cat(parts).double().cpu().numpy() for parts in columns)
    names = [name for name, live in zip(tying.decisions, tying.live, strict=True) if live]
    return Flips(questions, names, kinds_of(tying, model.components), losses_N, gates_NL, gradient_NL, change_NL)


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def decided(model: AdaptiveModel, batch: TaskBatch, gates: Gates) -> Tensor:
    """The gates [B, D] that the policy network decides for a batch, without noise or with that of training."""
    with torch.no_grad():
        logits_BD2 = model.decider.from_network(model.policy, batch.inputs, training=False).logits_BD2
        assert logits_BD2 is not None
        if gates == "sample":
            return straight_through_gumbel(logits_BD2, model.decider.temperature)
        return argmax_gates(logits_BD2)


def flipped(model: AdaptiveModel, task: Task, batch: TaskBatch, gates_BD: Tensor, shown: Callable[[], None]) -> Found:
    """Losses [B], and gates, their gradients and the true changes of the loss [B, L], for the live decisions; all gate
    gradients are evaluated, whatever share the run's training did.
    """

    def losses(decisions_BD: Tensor) -> Tensor:
        outputs = model(**batch.inputs, policy=decisions_BD)
        return task.losses(task.logits(outputs), batch)

    model.holder.gate_grad_fraction = 1.0
    asked_BD = gates_BD.clone().requires_grad_()
    loss_B = losses(asked_BD)
    (gradient_BD,) = torch.autograd.grad(loss_B.sum(), asked_BD)
    live = [number for number, is_live in enumerate(model.tying.live) if is_live]
    changes = []
    with torch.no_grad():
        # Gates that need no gradient take another way through the kernels: its rounding must not count as a change.
        before_B = losses(gates_BD)
        for number in live:
            other_BD = gates_BD.clone()
            other_BD[:, number] = 1 - other_BD[:, number]
            changes.append(losses(other_BD) - before_B)
            shown()
    return loss_B.detach(), gates_BD[:, live], gradient_BD[:, live], torch.stack(changes, dim=1)
