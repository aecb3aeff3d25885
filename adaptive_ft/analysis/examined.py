"""What is found out about a trained run by asking it some questions again: its decisions, sample by sample.

Plain data: who asks (adaptive_ft/examining.py) knows models, who shows it (analysis/report) does not.
Shapes: N samples, C components, D decisions, R regions of one picture, 4 = x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptive_ft.analysis.usage import UsageMeter
from adaptive_ft.components import ComponentMap
from adaptive_ft.data.records import Question
from adaptive_ft.strategies import Tying


@dataclass(frozen=True)
class Example:
    """One question, or labelled picture, with what the model made of it.

    `score` is the prediction's soft score, None where nothing is known to judge by. `boxes_R4` are the regions the
    model saw, `picture` an encoded picture of any size that shows the whole image, None where the shards hold none.
    """

    question: Question
    image_id: str
    prediction: str
    score: float | None
    size: tuple[int, int]
    boxes_R4: tuple[tuple[float, ...], ...]
    picture: bytes | None


@dataclass(frozen=True)
class Examined:
    """A checkpoint, asked N examples of the `total` in `address`.

    `distance_C` is the distance from the pretrained weights, ||delta|| / ||pretrained||; None where no pretrained half
    is kept.
    """

    step: int
    noun: str
    address: str
    total: int
    components: ComponentMap
    tying: Tying
    gates_ND: Tensor
    examples: list[Example]
    distance_C: Tensor | None
    parameters: dict[str, int]

    @property
    def gates_NC(self) -> Tensor:
        """The gates of the components, the strategy's constants among them."""
        return self.tying.expand(self.gates_ND)

    @property
    def usage(self) -> UsageMeter:
        """Shares and counts over the samples."""
        meter = UsageMeter(self.tying)
        meter.update(self.gates_ND)
        return meter

    def per_sample(self) -> list[dict[str, Any]]:
        """A line per sample for a table: ids, kinds, answer, score, and its decisions as a text of 0 and 1."""
        return [
            {
                "question_id": example.question.question_id,
                "image_id": example.image_id,
                "question_type": example.question.question_type,
                "answer_type": example.question.answer_type,
                "question": example.question.text,
                "prediction": example.prediction,
                "score": example.score,
                "decisions": "".join(str(int(gate)) for gate in gates_D),
            }
            for example, gates_D in zip(self.examples, self.gates_ND.tolist(), strict=True)
        ]
