"""Gated leaves go in where something may be tuned, and come out plain."""

from typing import Any

import pytest
import torch
from torch import nn

from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLayerNorm, GatedLinear
from adaptive_ft.models import Leaf
from adaptive_ft.strategies import FROZEN, TUNED
from adaptive_ft.wrapping import unwrap, wrap

LEAVES = (Leaf("0", 0, 2), Leaf("1", 2, 3))


@pytest.fixture
def model() -> Any:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("index", "types"),
    [
        ((FROZEN, FROZEN, FROZEN), [nn.Linear, nn.LayerNorm, nn.Linear]),
        ((FROZEN, 0, FROZEN), [GatedLinear, nn.LayerNorm, nn.Linear]),
        ((FROZEN, FROZEN, TUNED), [nn.Linear, GatedLayerNorm, nn.Linear]),
        ((TUNED, TUNED, 0), [GatedLinear, GatedLayerNorm, nn.Linear]),
    ],
)
def test_only_leaves_that_may_be_tuned_are_wrapped(
    model: Any, index: tuple[int, ...], types: list[type[nn.Module]]
) -> None:
    weights = [module.weight for module in model]
    wrap(model, LEAVES, index, GateHolder())
    assert [type(module) for module in model] == types
    assert all(module.weight is weight for module, weight in zip(model, weights, strict=True))
    assert [module.weight.requires_grad for module in model] == [False, False, True]


def test_unwrapping_folds_each_component_by_itself(model: Any) -> None:
    frozen = [module.weight.detach().clone() for module in model]
    wrap(model, LEAVES, (TUNED, TUNED, TUNED), GateHolder())
    for leaf in LEAVES:
        nn.init.ones_(model.get_submodule(leaf.path).delta_weight)
    unwrap(model, LEAVES, torch.tensor([0.0, 1.0, 0.0]))
    assert [type(module) for module in model] == [nn.Linear, nn.LayerNorm, nn.Linear]
    assert torch.equal(model[0].weight[:2], frozen[0][:2]), "rows of the first component stay pretrained"
    assert torch.equal(model[0].weight[2:], frozen[0][2:] + 1)
    assert torch.equal(model[1].weight, frozen[1])
    assert all(parameter.requires_grad for parameter in model.parameters())
