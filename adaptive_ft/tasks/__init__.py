"""What a model is asked to do, and how an answer is judged.

A task turns raw examples into a batch the model's forward understands, the model's output into a loss, and
logits into answers and scores. The trainer knows nothing else of a task: everything it calls is in `Task`.

Shapes: B examples in a batch, A classes the task can answer with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from adaptive_ft.data.batch import RawBatch
from adaptive_ft.data.records import Question


class TaskBatch(Protocol):
    """One batch, ready for `model(**batch.inputs)`; rows with `valid_B` False only fill up an evaluation."""

    @property
    def inputs(self) -> dict[str, Tensor]: ...

    @property
    def questions(self) -> Sequence[Question]: ...

    @property
    def valid_B(self) -> Tensor: ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self: ...


BatchT = TypeVar("BatchT", bound=TaskBatch)


class Task(Protocol[BatchT]):
    """The five things a trainer asks of a task."""

    def collate(self, raw: RawBatch) -> BatchT:
        """Raw examples -> tensors on the CPU."""

    def logits(self, outputs: Any) -> Tensor:
        """The model's output object -> its logits [B, A]."""

    def loss(self, logits_BA: Tensor, batch: BatchT) -> Tensor:
        """Mean loss per valid row, a float32 scalar."""

    def soft_scores(self, logits_BA: Tensor, batch: BatchT) -> Tensor:
        """The score in [0, 1] of each row's best answer, float32 [B]; 0 where the row is not valid."""

    def answers(self, logits_BA: Tensor) -> list[str]:
        """Each row's best answer in words."""
