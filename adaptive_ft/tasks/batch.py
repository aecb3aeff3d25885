"""What a task makes of raw examples: the inputs of one forward pass, with the targets to judge it by.

Shapes: B questions, A answers of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_ft.data.records import Question


@dataclass(frozen=True)
class TaskBatch:
    """Inputs of one forward pass with the answers' soft scores.

    `inputs` holds arguments of the base model's forward; `targets_BA` is float32 in [0, 1]; `valid_B` is False for
    rows that only fill up the last batches of an evaluation; `float32_inputs` names the inputs that stay float32
    whatever the model computes in.
    """

    inputs: dict[str, Tensor]
    targets_BA: Tensor
    questions: list[Question]
    valid_B: Tensor
    float32_inputs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.questions)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> TaskBatch:
        """The batch on `device`, its floating-point inputs as `dtype` but for `float32_inputs`.

        Token numbers and masks keep their type, and so do the targets: 0.3 is not a bfloat16 number, and loss
        and scores are float32 whatever the model computes in. LXMERT's features travel as they are stored (float16 half
        as long as float32) and become `dtype` on the device; VL-BERT's, whose mean is taken before, and normalised
        pictures are float32 already.
        """
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return TaskBatch(
            inputs={
                name: tensor.to(dtype) if tensor.is_floating_point() and name not in self.float32_inputs else tensor
                for name, tensor in moved.items()
            },
            targets_BA=self.targets_BA.to(device),
            questions=self.questions,
            valid_B=self.valid_B.to(device),
            float32_inputs=self.float32_inputs,
        )
