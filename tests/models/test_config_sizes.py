"""A configuration whose numbers of layers change afterwards is the one made with these numbers."""

import pytest

from adaptive_ft.models.config_sizes import resize
from tests.models.tiny_families import LXMERT, TINY, Family

CASES = [
    (TINY["bert"], {"num_hidden_layers": 1}),
    (TINY["dinov2"], {"num_hidden_layers": 2}),
    (LXMERT, {"l_layers": 1, "r_layers": 0, "x_layers": 1}),
]


@pytest.mark.parametrize(("family", "sizes"), CASES, ids=["bert", "dinov2", "lxmert"])
def test_what_is_derived_from_the_sizes_changes_with_them(family: Family, sizes: dict[str, int]) -> None:
    """DINOv2's names of stages and LXMERT's table of layers, but nothing that was chosen otherwise."""
    config = family.config()
    config.initializer_range = 0.5
    resize(config, sizes)
    made = type(config)(**{**family.sizes, **sizes})
    assert {name: getattr(config, name) for name in sizes} == sizes
    assert config.initializer_range == 0.5
    for name in ("stage_names", "num_hidden_layers"):
        assert getattr(config, name, None) == getattr(made, name, None), name
