"""LXMERT's layers under activation checkpointing: the same gradients, each layer run once more, and plain again after.

Shape suffixes: B samples, D decisions.
"""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.lxmert.modeling_lxmert import LxmertLayer, LxmertXLayer

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from tests.models.tiny_families import LXMERT

BATCH = 4


def adapt(base: nn.Module, strategy: str) -> AdaptiveModel:
    config = AdaptiveConfig(strategy, policy=PolicyConfig(embedding_size=4, hidden_size=8), gate_grad_fraction=0.5)
    model = get_adaptive_model(copy.deepcopy(base), config).train()
    torch.manual_seed(1)
    for _, delta in model.parameter_groups().get("delta", []):
        nn.init.normal_(delta, std=0.1)
    return model


def gradients(model: AdaptiveModel, inputs: dict[str, Tensor], gates_BD: Tensor) -> dict[str, Tensor | None]:
    leaf_BD = gates_BD.clone().requires_grad_()
    model.holder.seed(3)
    torch.manual_seed(2)
    model(**inputs, policy=leaf_BD).pooled_output.square().sum().backward()
    return {**{name: value.grad for name, value in model.named_parameters()}, "gates": leaf_BD.grad}


@pytest.mark.parametrize("strategy", ["spottune", "blockdrop"])
def test_recomputed_layers_give_the_same_gradients(strategy: str) -> None:
    """With dropout, and with every layer once more in the backward pass: the shared cross-attention four times."""
    base: Any = LXMERT.build()
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    inputs, plain, recomputed = LXMERT.inputs(BATCH), adapt(base, strategy), adapt(base, strategy)
    recomputed.gradient_checkpointing_enable()
    calls: list[int] = []
    for model in (plain, recomputed):
        cross = model.base.encoder.x_layers[0].visual_attention
        cross.register_forward_hook(lambda *_, calls=calls: calls.append(1))
    gates_BD = torch.randint(0, 2, (BATCH, len(plain.decisions))).float()
    expected = gradients(plain, inputs, gates_BD)
    once = len(calls)
    found = gradients(recomputed, inputs, gates_BD)
    assert len(calls) == 3 * once
    assert any(value is not None and value.any() for value in expected.values())
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_an_adapted_lxmert_is_copied_and_given_out_plain_again() -> None:
    base = LXMERT.build()
    inputs = LXMERT.inputs(BATCH)
    with torch.no_grad():
        expected = base(**inputs).pooled_output
        model = get_adaptive_model(base, AdaptiveConfig("standard")).eval()
        for made in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(made(**inputs).pooled_output, expected)
    plain: Any = model.unload()
    assert {type(layer) for layer in (*plain.encoder.layer, *plain.encoder.r_layers)} == {LxmertLayer}
    assert {type(layer) for layer in plain.encoder.x_layers} == {LxmertXLayer}
    with pytest.raises(ValueError, match="does not support activation checkpointing"):
        plain.activation_checkpointing_enable()
