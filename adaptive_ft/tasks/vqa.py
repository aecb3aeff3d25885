"""Visual question answering with LXMERT's inputs: question and regions in, one answer of a fixed table out.

Shapes: B questions, L tokens per question, N region boxes, D features per box, A answers of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from adaptive_ft.data.batch import RawBatch
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError


@dataclass
class VqaConfig:
    """Options of the VQA task."""

    max_question_length: int = 20
    """Tokens per question with [CLS] and [SEP]; longer ones are cut, shorter ones padded."""


@dataclass(frozen=True)
class VqaBatch:
    """Inputs of one forward pass with the answers' soft scores.

    `inputs` holds arguments of LxmertForQuestionAnswering.forward; `targets_BA` is float32 in [0, 1];
    `valid_B` is False for rows that only fill up the last batches of an evaluation.
    """

    inputs: dict[str, Tensor]
    targets_BA: Tensor
    questions: list[Question]
    valid_B: Tensor

    def __len__(self) -> int:
        return len(self.questions)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VqaBatch:
        """The batch on `device`, its floating-point inputs as `dtype`.

        Token numbers and masks keep their type, and so do the targets: 0.3 is not a bfloat16 number, and loss
        and scores are float32 whatever the model computes in.
        """
        return VqaBatch(
            inputs={
                name: tensor.to(device, dtype if tensor.is_floating_point() else None)
                for name, tensor in self.inputs.items()
            },
            targets_BA=self.targets_BA.to(device),
            questions=self.questions,
            valid_B=self.valid_B.to(device),
        )


class VqaTask:
    """VQA as the choice of one answer from `answer_table` (label = position in the table).

    The table writes its answers as `Question.scores` does, in the official normalisation.
    `tokenizer` is a Hugging Face tokenizer that writes [CLS] question [SEP]; every question is cut or padded
    to exactly `max_question_length` tokens, as LXMERT does.
    Raises UserError for an empty table or a table that names an answer twice.
    """

    def __init__(
        self,
        answer_table: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_question_length: int = 20,
    ) -> None:
        self.answer_table = tuple(answer_table)
        self._tokenizer = tokenizer
        self._max_question_length = max_question_length
        self._label = {answer: label for label, answer in enumerate(self.answer_table)}
        if not self.answer_table:
            raise UserError("The answer table is empty: a VQA task needs at least one answer to choose from.")
        if len(self._label) != len(self.answer_table):
            twice = next(a for label, a in enumerate(self.answer_table) if self._label[a] != label)
            raise UserError(f"The answer table names the answer '{twice}' twice; make its entries unique.")

    @property
    def num_answers(self) -> int:
        """A, the number of answers in the table."""
        return len(self.answer_table)

    def collate(self, raw: RawBatch) -> VqaBatch:
        """Raw examples -> LXMERT's inputs and soft targets, all on the CPU."""
        inputs = self._language_inputs(raw.questions) | _visual_inputs(raw)
        targets_BA = self._targets(raw.questions)
        targets_BA[~raw.valid_B] = 0.0
        return VqaBatch(inputs, targets_BA, list(raw.questions), raw.valid_B)

    def logits(self, outputs: Any) -> Tensor:
        """The logits [B, A] in the output of a Hugging Face question-answering model."""
        return outputs.question_answering_score

    def loss(self, logits_BA: Tensor, batch: VqaBatch) -> Tensor:
        """Binary cross-entropy, mean over valid rows and answers, times A, as in the original (docs/method.md, 5).

        Equals the sum over answers, averaged over the valid rows; float32 scalar; 0 when no row is valid.
        """
        loss_BA = F.binary_cross_entropy_with_logits(logits_BA.float(), batch.targets_BA, reduction="none")
        loss_B = torch.where(batch.valid_B, loss_BA.sum(dim=1), 0.0)
        return loss_B.sum() / batch.valid_B.sum().clamp(min=1)

    def soft_scores(self, logits_BA: Tensor, batch: VqaBatch) -> Tensor:
        """The target score of each row's highest logit, float32 [B] in [0, 1]; 0 for padding rows."""
        score_B = batch.targets_BA.gather(1, logits_BA.argmax(dim=1, keepdim=True)).squeeze(1)
        return torch.where(batch.valid_B, score_B, 0.0)

    def answers(self, logits_BA: Tensor) -> list[str]:
        """The table's answer with the highest logit, one per row (first one on a tie)."""
        return [self.answer_table[label] for label in logits_BA.argmax(dim=1).tolist()]

    def _language_inputs(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        encoded = self._tokenizer(
            [question.text for question in questions],
            padding="max_length",
            truncation=True,
            max_length=self._max_question_length,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            # One segment only: LXMERT was pretrained with type 0 on every token.
            "token_type_ids": torch.zeros_like(encoded["input_ids"]),
        }

    def _targets(self, questions: Sequence[Question]) -> Tensor:
        """Soft scores [B, A]; answers outside the table earn nothing, as in the original."""
        rows, labels, scores = [], [], []
        for row, question in enumerate(questions):
            for answer, score in question.scores.items():
                label = self._label.get(answer)
                if label is not None:
                    rows.append(row)
                    labels.append(label)
                    scores.append(score)
        targets_BA = torch.zeros(len(questions), self.num_answers)
        targets_BA[rows, labels] = torch.tensor(scores, dtype=torch.float32)
        return targets_BA


def _visual_inputs(raw: RawBatch) -> dict[str, Tensor]:
    """Region features [B, N, D] and box corners [B, N, 4] as shares of the picture's width and height."""
    sizes_B14 = raw.sizes_B2.repeat(1, 2).unsqueeze(1)
    # Detectors may round a corner past the border; padding boxes stay 0, even without a picture size.
    pos_BN4 = torch.where(raw.box_mask_BN.unsqueeze(2), raw.boxes_BN4 / sizes_B14, 0.0).clamp(0.0, 1.0)
    inputs = {"visual_feats": raw.features_BND, "visual_pos": pos_BN4}
    if not raw.box_mask_BN.all():
        inputs["visual_attention_mask"] = raw.box_mask_BN.long()
    return inputs
