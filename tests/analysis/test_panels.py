"""The layout of the layer x component picture: which layers share a panel and what the columns are called."""

import numpy as np

from adaptive_ft.analysis.panels import panels
from adaptive_ft.components import Component, ComponentMap


def layer(name: str, *parts: str) -> list[Component]:
    """Two heads and an output for an attention part, one component for any other."""
    found = []
    for part in parts:
        heads = [Component(name, part, 0), Component(name, part, 1), Component(name, f"{part}.output")]
        found += heads if part.endswith("attention") else [Component(name, part)]
    return found


SMALL = [
    *layer("language.0", "attention", "ffn.in"),
    *layer("region.0", "attention", "ffn.in"),
    *layer("cross.0", "cross_attention", "language_attention", "region_ffn.in"),
]
COMPONENTS = ComponentMap(tuple(SMALL), (True,) * len(SMALL))


def test_layers_with_the_same_components_share_a_panel() -> None:
    first, second = panels(COMPONENTS)
    assert (first.title, first.layers) == ("language and region layers", ("language.0", "region.0"))
    assert (second.title, second.layers) == ("cross layers", ("cross.0",))
    assert first.boundaries == [1]
    assert first.columns_LP.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert np.concatenate([panel.columns_LP.ravel() for panel in (first, second)]).tolist() == list(range(15))


def test_layers_of_a_single_stream_are_just_layers() -> None:
    parts = [*layer("layer.0", "attention", "ffn.in"), *layer("layer.1", "attention", "ffn.in")]
    (only,) = panels(ComponentMap(tuple(parts), (True,) * len(parts)))
    assert (only.title, only.layers, only.boundaries) == ("layers", ("layer.0", "layer.1"), [])


def test_columns_are_named_once() -> None:
    cross = panels(COMPONENTS)[1]
    assert [(span.name, span.start, span.stop, span.bracketed) for span in cross.spans] == [
        ("cross attention", 0, 3, True),
        ("language attention", 3, 6, True),
        ("region ffn", 6, 7, False),
    ]
    assert cross.labels == ["0", "1", "output", "0", "1", "output", "region ffn in"]
