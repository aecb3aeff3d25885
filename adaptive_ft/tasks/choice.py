"""What all tasks share: the choice of one answer out of a table.

Shapes: B examples, A answers of the table.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptive_ft.data.reading.batch import Examples
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.batch import TaskBatch


class AnswerChoice:
    """One answer from `answer_table`; its label is the place in the table.

    Raises UserError for an empty table or a table that names an answer twice.
    """

    def __init__(self, answer_table: Sequence[str]) -> None:
        self.answer_table = tuple(answer_table)
        self._label = {answer: label for label, answer in enumerate(self.answer_table)}
        if not self.answer_table:
            raise UserError("The answer table is empty: a task needs at least one answer to choose from.")
        if len(self._label) != len(self.answer_table):
            twice = next(a for label, a in enumerate(self.answer_table) if self._label[a] != label)
            raise UserError(f"The answer table names the answer '{twice}' twice; make its entries unique.")

    @property
    def num_answers(self) -> int:
        """A, the number of answers in the table."""
        return len(self.answer_table)

    def soft_scores(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """The target score of each row's highest logit, float32 [B] in [0, 1]; 0 for padding rows."""
        score_B = batch.targets_BA.gather(1, logits_BA.argmax(dim=1, keepdim=True)).squeeze(1)
        return torch.where(batch.valid_B, score_B, 0.0)

    def answers(self, logits_BA: Tensor) -> list[str]:
        """The table's answer with the highest logit, one per row (first one on a tie)."""
        return [self.answer_table[label] for label in logits_BA.argmax(dim=1).tolist()]

    def targets(self, raw: Examples) -> Tensor:
        """Soft scores [B, A]; answers outside the table earn nothing, as in the original, nor do rows not valid."""
        rows, labels, scores = [], [], []
        for row, question in enumerate(raw.questions):
            for answer, score in question.scores.items():
                label = self._label.get(answer)
                if label is not None:
                    rows.append(row)
                    labels.append(label)
                    scores.append(score)
        targets_BA = torch.zeros(len(raw.questions), self.num_answers)
        targets_BA[rows, labels] = torch.tensor(scores, dtype=torch.float32)
        targets_BA[~raw.valid_B] = 0.0
        return targets_BA
