"""Strategies as tyings: decisions, constants, spellings, and what is refused."""

import pytest
import torch

from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.errors import UserError
from adaptive_ft.strategies import BLOCK, FROZEN, LEAF, TUNED, tie


@pytest.fixture
def components() -> ComponentMap:
    """Three layers of two heads, attention output and FFN in; the attention of the last one is dead."""
    places = (("attention", 0), ("attention", 1), ("attention.output", None), ("ffn.in", None))
    made = tuple(Component(f"layer.{layer}", part, head) for layer in range(3) for part, head in places)
    return ComponentMap(made, (True,) * 8 + (False, False, False, True))


def test_spottune_decides_per_component(components: ComponentMap) -> None:
    tying = tie("spottune", components)
    assert tying.decisions == components.names
    assert tying.index == tuple(range(12))
    assert tying.live == components.live


def test_res_decides_twice_per_layer(components: ComponentMap) -> None:
    tying = tie("spottune_res", components)
    assert tying.decisions == tuple(f"layer.{n}.{half}" for n in range(3) for half in ("attention", "ffn"))
    assert tying.index == (0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5)
    assert tying.num_live == (3, 1, 3, 1, 0, 1)
    assert tying.live == (True, True, True, True, False, True), "a decision over dead components alone is dead"


def test_block_decides_once_per_layer(components: ComponentMap) -> None:
    tying = tie("spottune_block", components)
    assert tying.decisions == ("layer.0", "layer.1", "layer.2")
    assert tying.live == (True, True, True), "one live component keeps its decision alive"


def test_blockdrop_decides_once_per_layer_about_the_whole_block(components: ComponentMap) -> None:
    tying = tie("blockdrop", components)
    assert tying.unit is BLOCK
    assert tie("spottune_block", components).unit is LEAF
    assert (tying.decisions, tying.live) == (("layer.0", "layer.1", "layer.2"), (True, True, True))
    assert "frozen" not in tying.unit.constants


@pytest.mark.parametrize(
    ("strategy", "frozen_layers", "tuned"),
    [
        ("standard", (), {0, 1, 2}),
        ("pretrained_frozen", (), set()),
        ("last_1", (), {2}),
        ("last_3", (), {0, 1, 2}),
        ("specific_k", (0, 2), {1}),
    ],
)
def test_constant_strategies(
    components: ComponentMap, strategy: str, frozen_layers: tuple[int, ...], tuned: set[int]
) -> None:
    tying = tie(strategy, components, frozen_layers)
    assert tying.decisions == ()
    assert tying.index == tuple(TUNED if column // 4 in tuned else FROZEN for column in range(12))


@pytest.mark.parametrize(
    ("spelling", "strategy"),
    [
        ("SpotTune", "spottune"),
        ("SpotTune_Block", "spottune_block"),
        ("SpotTune_Res", "spottune_res"),
        ("Frozen_Bert", "pretrained_frozen"),
        ("BlockDrop", "blockdrop"),
        ("frozen", "pretrained_frozen"),
        ("Last_2", "last_2"),
    ],
)
def test_the_originals_spellings(components: ComponentMap, spelling: str, strategy: str) -> None:
    assert tie(spelling, components) == tie(strategy, components)


@pytest.mark.parametrize(
    ("strategy", "frozen_layers", "message"),
    [
        ("spotune", (), "Did you mean 'spottune'"),
        ("blockreplace", (), r"Choose one of spottune, .*last_K"),
        ("last_k", (), "K is a number"),
        ("last_4", (), "K from 1 to 3"),
        ("last_0", (), "K from 1 to 3"),
        ("specific_k", (), "needs frozen_layers"),
        ("specific_k", (1, 3, -1), r"\[3, -1\] do not exist; the model has layers 0 to 2"),
        ("spottune", (1,), "no meaning"),
    ],
)
def test_what_cannot_work_is_refused(
    components: ComponentMap, strategy: str, frozen_layers: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tie(strategy, components, frozen_layers)


def test_expand_copies_decisions_and_sums_their_gradients(components: ComponentMap) -> None:
    gates_BD = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], requires_grad=True)
    gates_BC = tie("spottune_block", components).expand(gates_BD)
    assert torch.equal(gates_BC, gates_BD.repeat_interleave(4, dim=1))
    (gradient_BD,) = torch.autograd.grad(gates_BC.sum(), gates_BD)
    assert torch.equal(gradient_BD, torch.full((2, 3), 4.0))


def test_expand_fills_in_constants(components: ComponentMap) -> None:
    gates_BC = tie("last_1", components).expand(torch.zeros(2, 0))
    assert torch.equal(gates_BC, torch.tensor([[0.0] * 8 + [1.0] * 4] * 2))
