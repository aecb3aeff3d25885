"""What the package needs to know about a model: its components and the modules that carry their weights.

Every leaf has an id of its own, made of component names and a role: what is saved goes by it, so that a file
outlives a renaming of the model's modules.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from adaptive_ft.components import ComponentMap

PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One Linear or LayerNorm: its path in the model, its columns start:stop of gates [B, C], and its id.

    The id is the name of its components without the number of the head, and a role: "layer.3.attention.query",
    "layer.3.attention.output.dense", "cross.1.language_ffn.out.norm".
    """

    path: str
    start: int
    stop: int
    id: str


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

    `ungated` names the weights inside the layers that belong to no leaf, each with its id: they stay frozen for
    every strategy that gates leaves.
    """

    prefix: str
    components: ComponentMap
    leaves: tuple[Leaf, ...]
    blocks: tuple[Block, ...]
    ungated: Mapping[str, str] = field(default_factory=dict)

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

    def id_of(self, name: str) -> str | None:
        """The id of a weight inside the layers, from its name in the model; None for any other weight.

        A weight of a leaf, also one the leaf got later: "layer.3.ffn.in.dense.delta_weight".
        """
        owner, _, weight = name.rpartition(".")
        if owner in self._leaf_ids:
            return f"{self._leaf_ids[owner]}.{weight}"
        return self.ungated.get(name)

    @cached_property
    def _leaf_ids(self) -> dict[str, str]:
        return {leaf.path: leaf.id for leaf in self.leaves}


def leaves_of(part: str, modules: Mapping[str, nn.Module], start: int, stop: int) -> Iterator[Leaf]:
    """The leaves of the components start:stop, called `part` ("layer.3.attention"), from their modules by path."""
    linears = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    roles = dict.fromkeys(modules, "norm") | dict(zip(linears, _linear_roles(linears), strict=True))
    yield from (Leaf(path, start, stop, f"{part}.{role}") for path, role in roles.items())


def _linear_roles(paths: Sequence[str]) -> Sequence[str]:
    """What the Linears of one part do: "dense", or "dense.0" and "dense.1" where one gates the other; three are query,
    key and value, by the first letter of their last names (q_proj, key), or in this order where no letters tell.
    """
    if len(paths) != len(PROJECTIONS):
        return ["dense"] if len(paths) == 1 else [f"dense.{number}" for number in range(len(paths))]
    by_letter = {role[0]: role for role in PROJECTIONS}
    letters = [path.rpartition(".")[2][:1].lower() for path in paths]
    return [by_letter[letter] for letter in letters] if sorted(letters) == sorted(by_letter) else PROJECTIONS
