"""Visual question answering: question and regions in, one answer of a fixed table out.

Shapes: B questions, A answers of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.choice import AnswerChoice
from adaptive_ft.tasks.vqa_augment import flip, resize
from adaptive_ft.tasks.vqa_inputs import VqaInputs


@dataclass
class VqaConfig:
    """Options of the VQA task."""

    max_question_length: int = 20
    """Tokens per question with [CLS] and [SEP], for VL-BERT also with [MASK] [SEP]; longer ones are cut, shorter ones
    padded."""
    flip_probability: float = 0.0
    """Share of training examples that are mirrored, with left and right changing places in question and answers."""
    resize_boxes: bool = False
    """Scale boxes and pictures to a short side of 600 pixels, or less where the long one would pass 1000."""


class VqaTask(AnswerChoice):
    """VQA as the choice of one answer from `answer_table` (label = position in the table).

    The table writes its answers as `Question.scores` does, in the official normalisation. `inputs` makes the
    arguments of the base model's forward.
    Raises UserError for an empty table or a table that names an answer twice.
    """

    def __init__(self, answer_table: Sequence[str], inputs: VqaInputs, config: VqaConfig | None = None) -> None:
        super().__init__(answer_table)
        self._inputs = inputs
        self._config = config or VqaConfig()

    def augment(self, raw: RawBatch) -> RawBatch:
        """Each example mirrored with probability `flip_probability`."""
        share = self._config.flip_probability
        return flip(raw, torch.rand(len(raw.questions)) < share) if share else raw

    def collate(self, raw: RawBatch) -> TaskBatch:
        """Raw examples -> the base model's inputs and soft targets, all on the CPU."""
        inputs = self._inputs(resize(raw) if self._config.resize_boxes else raw)
        return TaskBatch(inputs, self.targets(raw), list(raw.questions), raw.valid_B, self._inputs.float32_inputs)

    def visual_feats(self, features_BND: Tensor, box_mask_BN: Tensor) -> Tensor:
        """What `collate` gives as `visual_feats` for these features of regions, differentiable in them."""
        return self._inputs.visual_feats(features_BND, box_mask_BN)

    def logits(self, outputs: Any) -> Tensor:
        """The logits [B, A] in the output of a Hugging Face question-answering model."""
        return outputs.question_answering_score

    def losses(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """Binary cross-entropy of each row, summed over answers; float32 [B]; 0 for rows that are not valid."""
        loss_BA = F.binary_cross_entropy_with_logits(logits_BA.float(), batch.targets_BA, reduction="none")
        return torch.where(batch.valid_B, loss_BA.sum(dim=1), 0.0)

    def loss(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """Binary cross-entropy, mean over valid rows and answers, times A, as in the original (docs/method.md, 5).

        Equals the sum over answers, averaged over the valid rows; float32 scalar; 0 when no row is valid.
        """
        return self.losses(logits_BA, batch).sum() / batch.valid_B.sum().clamp(min=1)
