"""What the package needs to know about a model: its components and the modules that carry their weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from adaptive_ft.components import ComponentMap


@dataclass(frozen=True, slots=True)
class Leaf:
    """One Linear or LayerNorm: its path in the model and its columns start:stop of gates [B, C]."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Block:
    """One whole layer: its path in the model and `column`, the first of its components.

    `streams`: the arguments of its forward that it maps to its outputs, in the order of these, each with the name of
    the stream it carries. `counted_by`: the size in the backbone's config that says how many layers its stack has.
    """

    path: str
    column: int
    streams: Mapping[str, str]
    counted_by: str


@dataclass(frozen=True)
class Anatomy:
    """Where the backbone sits (`prefix`, "" for the model itself), its components, all their leaves, and its layers.

    `ungated` names the weights inside the layers that belong to no leaf: they stay frozen for every strategy.
    """

    prefix: str
    components: ComponentMap
    leaves: tuple[Leaf, ...]
    blocks: tuple[Block, ...]
    ungated: tuple[str, ...] = ()

    def backbone(self, model: nn.Module) -> nn.Module:
        """The backbone inside `model`; what lies outside it is the task head."""
        return model.get_submodule(self.prefix)

    def frozen_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The pretrained weights of a plain `model` that never train, by name; the same for every strategy."""
        of_leaves: dict[str, Tensor] = {
            f"{leaf.path}.{name}": weight
            for leaf in self.leaves
            for name, weight in model.get_submodule(leaf.path).named_parameters()
        }
        return of_leaves | {name: model.get_parameter(name) for name in self.ungated}
