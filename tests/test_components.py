"""Names of components, and the order of their layers."""

import pytest

from adaptive_ft.components import Component, ComponentMap


@pytest.mark.parametrize(
    ("component", "name", "sublayer"),
    [
        (Component("language.0", "attention", 3), "language.0.attention.head.3", "attention"),
        (Component("language.0", "attention.output"), "language.0.attention.output", "attention"),
        (Component("region.2", "ffn.in"), "region.2.ffn.in", "ffn"),
        (Component("cross.4", "cross_attention", 0), "cross.4.cross_attention.head.0", "attention"),
        (Component("cross.4", "language_attention.output"), "cross.4.language_attention.output", "attention"),
        (Component("cross.4", "region_ffn.out"), "cross.4.region_ffn.out", "ffn"),
    ],
)
def test_a_component_says_where_it_sits(component: Component, name: str, sublayer: str) -> None:
    assert component.name == name
    assert component.sublayer == sublayer
    assert component.name == f"{component.layer}.{component.place}"


def test_layers_come_in_the_order_of_their_first_component() -> None:
    components = (Component("b.0", "ffn.in"), Component("b.0", "ffn.out"), Component("a.0", "ffn.in"))
    component_map = ComponentMap(components, (True, True, False))
    assert component_map.layers == ("b.0", "a.0")
    assert component_map.names == ("b.0.ffn.in", "b.0.ffn.out", "a.0.ffn.in")
    assert len(component_map) == 3


def test_every_component_needs_its_live_flag() -> None:
    with pytest.raises(AssertionError):
        ComponentMap((Component("a.0", "ffn.in"),), ())
