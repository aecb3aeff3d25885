"""Distances from the pretrained weights, component by component, against norms taken by hand."""

import pytest
import torch
from transformers import ViTConfig, ViTModel

from adaptive_ft import AdaptiveConfig, AdaptiveModel, get_adaptive_model
from adaptive_ft.distances import component_distances


def small(strategy: str, delta_rank: int | None = None) -> AdaptiveModel:
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    return get_adaptive_model(ViTModel(config), AdaptiveConfig(strategy=strategy, delta_rank=delta_rank))


def test_an_untrained_model_is_at_no_distance() -> None:
    distances = component_distances(small("spottune"))
    assert distances is not None
    assert distances.tolist() == [0.0] * 10


def test_a_head_moves_with_its_own_rows_of_query_key_and_value() -> None:
    """Head 1 of layer 0: the rows 4 to 7 of three matrices, and the same places of their biases."""
    model = small("spottune")
    attention = model.base.get_submodule("layers.0.attention")
    leaves = [module for name, module in attention.named_modules() if name in ("q_proj", "k_proj", "v_proj")]
    assert len(leaves) == 3
    moved, before = 0.0, 0.0
    for number, leaf in enumerate(leaves, start=1):
        with torch.no_grad():
            leaf.get_parameter("delta_weight")[4:] = 0.1 * number
            leaf.get_parameter("delta_bias")[4:] = 0.2 * number
        moved += 32 * (0.1 * number) ** 2 + 4 * (0.2 * number) ** 2
        before += leaf.get_parameter("weight")[4:].double().square().sum().item()
        before += leaf.get_parameter("bias")[4:].double().square().sum().item()
    distances = component_distances(model)
    assert distances is not None
    assert distances[1].item() == pytest.approx((moved / before) ** 0.5)
    assert distances.count_nonzero() == 1


def test_deltas_of_low_rank_are_multiplied_out() -> None:
    model = small("spottune", delta_rank=2)
    leaf = model.base.get_submodule("layers.1.mlp.fc1")
    with torch.no_grad():
        leaf.get_parameter("delta_up").fill_(0.5)
    delta = (leaf.get_parameter("delta_up") @ leaf.get_parameter("delta_down")).detach()
    own = [leaf, model.base.get_submodule("layers.1.layernorm_after")]  # both belong to ffn.in where norms precede
    before = sum(
        part.get_parameter(name).detach().double().square().sum() for part in own for name in ("weight", "bias")
    )
    distances = component_distances(model)
    assert distances is not None
    (moved,) = distances.nonzero().flatten().tolist()
    assert model.components.names[moved] == "layer.1.ffn.in"
    assert distances[moved].item() == pytest.approx(float(delta.double().norm() / before**0.5))


def test_without_a_pretrained_half_there_is_no_distance() -> None:
    assert component_distances(small("blockdrop")) is None
