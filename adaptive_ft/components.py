"""What can be tuned or left frozen on its own: the gated components of a model, in one documented order.

A component is the smallest place with its own gate: one attention head (its query, key and value), or one
dense sub-layer (attention output, FFN in, FFN out; a LayerNorm belongs to the dense layer before it). This
module is the only place that knows which column of a [B, C] gate tensor means what.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

ATTENTION = "attention"
FFN = "ffn"


@dataclass(frozen=True, slots=True)
class Component:
    """One gated place: `layer` ("cross.4"), `part` ("language_attention.output") and, for a head, its number.

    `part` is "[stream_]attention" for a head, "[stream_]attention.output", "[stream_]ffn.in" or
    "[stream_]ffn.out".
    """

    layer: str
    part: str
    head: int | None = None

    @property
    def place(self) -> str:
        """The name inside the layer: "attention.head.3", "attention.output", "language_ffn.in"."""
        return self.part if self.head is None else f"{self.part}.head.{self.head}"

    @property
    def name(self) -> str:
        """The full name: "language.0.attention.head.3", "cross.4.region_ffn.in"."""
        return f"{self.layer}.{self.place}"

    @property
    def sublayer(self) -> str:
        """The half of the layer this sits in: "attention" (heads and output) or "ffn" (in and out)."""
        return FFN if self.part.split(".")[0].endswith(FFN) else ATTENTION


@dataclass(frozen=True)
class ComponentMap:
    """All components of a model; the position in `components` is the column in a gate tensor [B, C].

    `live[c]` is False for a dead component: one that cannot reach the pooled (answer) output, so that its
    gate has no effect and its delta no gradient.
    """

    components: tuple[Component, ...]
    live: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.components) == len(self.live)

    def __len__(self) -> int:
        return len(self.components)

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names in the order of the model: language, region, cross for LXMERT."""
        return tuple(dict.fromkeys(component.layer for component in self.components))

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in column order."""
        return tuple(component.name for component in self.components)


@lru_cache(maxsize=64)
def columns_on(columns: tuple[int, ...], device: torch.device) -> Tensor:
    """Column numbers as an int64 tensor on `device`, copied there once and not in every forward pass."""
    # A tensor born in inference mode could not be saved for a later backward.
    with torch.inference_mode(False):
        return torch.tensor(columns, dtype=torch.int64, device=device)
