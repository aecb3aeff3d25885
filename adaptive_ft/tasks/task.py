"""What the trainer and the evaluation ask of a task: from raw examples to inputs, from outputs to answers and a loss.

Shapes: B questions, A answers of the table.
"""

from typing import Any, Protocol

from torch import Tensor

from adaptive_ft.tasks.batch import TaskBatch


class Task(Protocol):
    """The choice of one answer out of a table, whatever is asked and shown."""

    @property
    def answer_table(self) -> tuple[str, ...]:
        """The answers by label."""

    @property
    def num_answers(self) -> int:
        """A, the number of answers in the table."""

    # What is raw depends on the task: each takes the batches of its own kind of shards.
    def augment(self, raw: Any) -> Any:
        """Training examples changed at random, drawn from torch's default generator; evaluation never calls it."""

    def collate(self, raw: Any) -> TaskBatch:
        """Raw examples -> the base model's inputs and the targets, all on the CPU."""

    def logits(self, outputs: Any) -> Tensor:
        """The logits [B, A] in the output of the base model."""

    def losses(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """The loss of each row, float32 [B]; 0 for rows that are not valid."""

    def loss(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """What training minimises: the float32 mean of `losses` over the valid rows, 0 where there are none."""

    def soft_scores(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """The target of each row's highest logit, float32 [B] in [0, 1]; 0 for rows that are not valid."""

    def answers(self, logits_BA: Tensor) -> list[str]:
        """The table's answer with the highest logit, one per row (first one on a tie)."""
