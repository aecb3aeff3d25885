"""How components are laid out in a layer x component picture: panels, rows, columns and their names.

Shapes: C components of a model, L layers (rows) and P places (columns) of one panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.components import Component, ComponentMap

ONLY_KIND = "layer"
"""How single-stream models name their layers: layer.0, layer.1, ..."""


@dataclass(frozen=True)
class Span:
    """Neighbouring columns of one part; a span of three or more carries its `name` above, once."""

    name: str
    start: int
    stop: int

    @property
    def bracketed(self) -> bool:
        """Whether the name stands above the span instead of under each column."""
        return self.stop - self.start > 2


@dataclass(frozen=True)
class Panel:
    """Layers that hold the same components: one row per layer, one column per place in the layer.

    `columns_LP` holds the component's number of every cell.
    """

    layers: tuple[str, ...]
    places: tuple[Component, ...]
    columns_LP: NDArray[np.intp]

    @property
    def title(self) -> str:
        """The kinds of layers in this panel: "language and region layers", or "layers" where there is but one kind."""
        kinds = dict.fromkeys(kind(layer) for layer in self.layers)
        return "layers" if list(kinds) == [ONLY_KIND] else " and ".join(kinds) + " layers"

    @property
    def boundaries(self) -> list[int]:
        """The rows at which another kind of layers begins."""
        return [row for row in range(1, len(self.layers)) if kind(self.layers[row]) != kind(self.layers[row - 1])]

    @property
    def spans(self) -> list[Span]:
        """The parts from left to right."""
        found, start = [], 0
        for part, group in groupby(self.places, key=lambda place: place.part.split(".")[0]):
            stop = start + len(list(group))
            found.append(Span(part.replace("_", " "), start, stop))
            start = stop
        return found

    @property
    def labels(self) -> list[str]:
        """A name per column: the head's number, "output" under a bracket, "language ffn in" without one."""
        bracketed = [span.bracketed for span in self.spans for _ in range(span.start, span.stop)]
        return [_label(place, above) for place, above in zip(self.places, bracketed, strict=True)]


def panels(components: ComponentMap) -> list[Panel]:
    """Layers with the same places in the same order share a panel, in the order of first layers."""
    columns: dict[str, list[int]] = {}
    for column, component in enumerate(components):
        columns.setdefault(component.layer, []).append(column)
    layouts: dict[tuple[str, ...], list[str]] = {}
    for layer, own in columns.items():
        layouts.setdefault(tuple(components.components[column].place for column in own), []).append(layer)
    return [
        Panel(
            layers=tuple(layers),
            places=tuple(components.components[column] for column in columns[layers[0]]),
            columns_LP=np.array([columns[layer] for layer in layers]),
        )
        for layers in layouts.values()
    ]


def kind(layer: str) -> str:
    """The layer's name without its number: "language" of "language.3"."""
    return layer.partition(".")[0]


def _label(place: Component, under_bracket: bool) -> str:
    if place.head is not None:
        return str(place.head)
    words = place.part.split(".")
    return " ".join(words[1:] if under_bracket else words).replace("_", " ")
