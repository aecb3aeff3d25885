"""Names of strategies, each turned into a tying: which components share one decision, and which are constant.

A strategy gives every component a label: a text names the decision that rules it, FROZEN and TUNED are
constants that no policy touches. It also says which unit a gate rules: a leaf of a layer, whose weights it chooses,
or a whole block, which it lets a sample use or skip. Nothing else in the package knows a strategy by its name.

| name | decisions |
|---|---|
| spottune | one per component |
| spottune_res | two per layer: its attention part(s), its FFN part(s) |
| spottune_block | one per layer |
| blockdrop | one per layer: use it or skip it |
| standard | none; all tuned |
| pretrained_frozen (frozen, Frozen_Bert) | none; all frozen |
| last_K, for instance last_4 | none; the last K layers tuned, the others frozen |
| specific_k | none; the layers of `frozen_layers` frozen, the others tuned |

Shape suffixes: B batch, C components, D decisions.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_ft.components import Component, ComponentMap, columns_on
from adaptive_ft.errors import UserError, nearest

# Both are negative on purpose: `Tying.expand` appends the columns [tuned, frozen] to the decisions, and a
# negative index counts from the end of the row.
FROZEN = -1
TUNED = -2

Label = Callable[[Component], str | int]


@dataclass(frozen=True)
class Unit:
    """What one gate rules, the weights of a leaf or a whole block.

    `constants` are the words that set all gates and their value, `pretrained` is the word that gives the pretrained
    model as long as nothing was learned; `refused` are outputs of the base that are not defined.
    """

    constants: Mapping[str, float]
    pretrained: str
    refused: tuple[str, ...] = ()


LEAF = Unit({"frozen": 0.0, "tuned": 1.0}, pretrained="frozen")
# One copy trains, so there is no frozen half; a sample that skips a block has no attentions in it.
BLOCK = Unit({"used": 1.0}, pretrained="used", refused=("output_attentions",))

DECIDED: dict[str, Label] = {
    "spottune": lambda component: component.name,
    "spottune_res": lambda component: f"{component.layer}.{component.sublayer}",
    "spottune_block": lambda component: component.layer,
    "blockdrop": lambda component: component.layer,
}
AT_BLOCKS = frozenset({"blockdrop"})
CONSTANT: dict[str, Label] = {
    "standard": lambda component: TUNED,
    "pretrained_frozen": lambda component: FROZEN,
}
ALIASES = {"frozen": "pretrained_frozen", "frozen_bert": "pretrained_frozen"}
LAST = "last_"
NAMES = (*DECIDED, *CONSTANT, "last_K", "specific_k")


@dataclass(frozen=True)
class Tying:
    """The map from D decisions to C components.

    `decisions` are the names in documented order; `index[c]` is the decision that rules component c, or
    FROZEN or TUNED; `num_live[d]` counts the live components that decision d rules; `unit` is what a gate rules.
    """

    decisions: tuple[str, ...]
    index: tuple[int, ...]
    num_live: tuple[int, ...]
    unit: Unit = LEAF

    @property
    def live(self) -> tuple[bool, ...]:
        """One flag per decision: False when all its components are dead."""
        return tuple(number > 0 for number in self.num_live)

    def expand(self, gates_BD: Tensor) -> Tensor:
        """The gate of every component: gates_BC[b, c] = gates_BD[b, index[c]], or the constant 0 or 1.

        Differentiable; a decision receives the sum of the gradients of its components.
        """
        batch = gates_BD.shape[0]
        table = torch.cat([gates_BD, gates_BD.new_ones(batch, 1), gates_BD.new_zeros(batch, 1)], dim=1)
        return table[:, columns_on(self.index, gates_BD.device)]


def tie(strategy: str, components: ComponentMap, frozen_layers: Sequence[int] = ()) -> Tying:
    """Turn a strategy's name into a tying of `components`.

    Upper and lower case are the same, and the original project's spellings (SpotTune_Block, last_4,
    Frozen_Bert) are accepted. `frozen_layers` (0-based, in the order of `components.layers`) belongs to
    specific_k alone.

    Raises UserError for an unknown strategy, a K or a layer that the model does not have, and frozen layers
    that are missing or given to another strategy. Source: docs/method.md 2.
    """
    name = canonical(strategy)
    if frozen_layers and name != "specific_k":
        raise UserError(
            f"frozen_layers {list(frozen_layers)} has no meaning for strategy '{strategy}'; "
            "leave it out or use strategy 'specific_k'."
        )
    label = _label(name, components, frozen_layers)
    labels = [label(component) for component in components]
    decisions = tuple(dict.fromkeys(text for text in labels if isinstance(text, str)))
    number = {decision: position for position, decision in enumerate(decisions)}
    index = tuple(number[text] if isinstance(text, str) else text for text in labels)
    reached = Counter(position for position, live in zip(index, components.live, strict=True) if live)
    num_live = tuple(reached[position] for position in range(len(decisions)))
    return Tying(decisions, index, num_live, BLOCK if name in AT_BLOCKS else LEAF)


def canonical(strategy: str) -> str:
    """The lower-case name of a strategy in any of its spellings.

    Raises UserError for an unknown one, with the nearest name.
    """
    name = ALIASES.get(strategy.lower(), strategy.lower())
    if name in (*DECIDED, *CONSTANT, "specific_k") or re.fullmatch(rf"{LAST}\d+", name):
        return name
    raise UserError(
        f"unknown strategy '{strategy}'.{nearest(name, [*NAMES, *ALIASES])} "
        f"Choose one of {', '.join(NAMES)} (K is a number, as in last_4)."
    )


def _label(name: str, components: ComponentMap, frozen_layers: Sequence[int]) -> Label:
    """The labelling function of one strategy, in its lower-case name."""
    if name in DECIDED:
        return DECIDED[name]
    if name in CONSTANT:
        return CONSTANT[name]
    if name == "specific_k":
        return _frozen_in(_chosen_layers(components.layers, frozen_layers))
    return _frozen_in(_all_but_last(components.layers, int(name.removeprefix(LAST))))


def _frozen_in(layers: Sequence[str]) -> Label:
    """Frozen in `layers`, tuned elsewhere."""
    frozen = frozenset(layers)
    return lambda component: FROZEN if component.layer in frozen else TUNED


def _all_but_last(layers: Sequence[str], num_tuned: int) -> Sequence[str]:
    """The layers that last_K freezes."""
    if not 1 <= num_tuned <= len(layers):
        raise UserError(f"strategy 'last_{num_tuned}' needs K from 1 to {len(layers)}, the model's number of layers.")
    return layers[: len(layers) - num_tuned]


def _chosen_layers(layers: Sequence[str], numbers: Sequence[int]) -> Sequence[str]:
    """The layers that specific_k freezes."""
    if not numbers:
        raise UserError("strategy 'specific_k' needs frozen_layers, the 0-based numbers of the layers to freeze.")
    outside = [number for number in numbers if not 0 <= number < len(layers)]
    if outside:
        raise UserError(f"frozen_layers {outside} do not exist; the model has layers 0 to {len(layers) - 1}.")
    return [layers[number] for number in numbers]
