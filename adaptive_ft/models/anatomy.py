"""What the package needs to know about a model: its components and the modules that carry their weights."""

from dataclasses import dataclass

from torch import Tensor, nn

from adaptive_ft.components import ComponentMap


@dataclass(frozen=True, slots=True)
class Leaf:
    """One Linear or LayerNorm: its path in the model and its columns start:stop of gates [B, C]."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Anatomy:
    """Where the backbone sits (`prefix`, "" for the model itself), its components and all their leaves."""

    prefix: str
    components: ComponentMap
    leaves: tuple[Leaf, ...]

    def backbone(self, model: nn.Module) -> nn.Module:
        """The backbone inside `model`; what lies outside it is the task head."""
        return model.get_submodule(self.prefix)

    def frozen_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The pretrained weights of all leaves of a plain `model`, by name; the same for every strategy."""
        return {
            f"{leaf.path}.{name}": weight
            for leaf in self.leaves
            for name, weight in model.get_submodule(leaf.path).named_parameters()
        }
