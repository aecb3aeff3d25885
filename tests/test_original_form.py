"""The original's form of an adapted model: the same outputs for gates of 0 and 1, mixed where the original mixes."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LxmertConfig, LxmertModel, ViTConfig, ViTModel

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.errors import UserError
from adaptive_ft.original_form import OriginalForm

Made = Callable[[], tuple[Any, dict[str, Tensor]]]
SIZES: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}


def bert() -> tuple[BertModel, dict[str, Tensor]]:
    return BertModel(BertConfig(**SIZES, num_hidden_layers=2, vocab_size=9)), WORDS


def lxmert() -> tuple[LxmertModel, dict[str, Tensor]]:
    config = LxmertConfig(**SIZES, l_layers=1, r_layers=1, x_layers=2, vocab_size=9, visual_feat_dim=4)
    regions = {"visual_feats": torch.randn(2, 3, 4), "visual_pos": torch.rand(2, 3, 4)}
    return LxmertModel(config), WORDS | regions


def learned(
    make: Callable[[], tuple[Any, dict[str, Tensor]]], **options: Any
) -> tuple[AdaptiveModel, dict[str, Tensor]]:
    """The adapted model with deltas that change the output, and inputs of two samples."""
    base, inputs = make()
    model = get_adaptive_model(base, AdaptiveConfig(**options)).double().eval()
    for _, delta in model.parameter_groups()["delta"]:
        torch.nn.init.normal_(delta, std=0.2)
    return model, {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def pooled(outputs: Any) -> Tensor:
    return outputs.pooled_output if "pooled_output" in outputs else outputs.pooler_output


@pytest.mark.parametrize("options", [{}, {"delta_rank": 2}], ids=str)
@pytest.mark.parametrize("make", [bert, lxmert])
def test_whole_gates_give_the_output_of_the_adapted_model(make: Any, options: dict[str, Any]) -> None:
    """Whatever they are, and the adapted model is not touched."""
    model, inputs = learned(make, **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    original = OriginalForm(model)
    with torch.no_grad():
        for _ in range(3):
            gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
            expected = pooled(model(**inputs, policy=gates_BD))
            torch.testing.assert_close(pooled(original(gates_BD, **inputs)), expected, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_outputs_are_mixed_after_the_layer_norm() -> None:
    """The last FFN's output is linear in its gate, so that its gradient is the difference of both copies' outputs."""
    model, inputs = learned(bert)
    original, last = OriginalForm(model), model.decisions.index("layer.1.ffn.out")
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
    hidden = []
    with torch.no_grad():
        for gate in (0.0, 0.5, 1.0):
            gates_BD[:, last] = gate
            hidden.append(original(gates_BD, **inputs).last_hidden_state)
    frozen, half, tuned = hidden
    assert not torch.allclose(frozen, tuned)
    torch.testing.assert_close(half, (frozen + tuned) / 2)
    weights = torch.randn_like(frozen)
    asked_BD = gates_BD.clone().requires_grad_()
    (original(asked_BD, **inputs).last_hidden_state * weights).sum().backward()
    assert asked_BD.grad is not None
    torch.testing.assert_close(asked_BD.grad[:, last], ((tuned - frozen) * weights).sum(dim=(1, 2)))


@pytest.mark.parametrize("make", [bert, lxmert])
def test_whole_modules_are_mixed(make: Any) -> None:
    """Softmax, GELU and LayerNorm lie inside them: an attention's context, FFN in, and both outputs."""
    original = OriginalForm(learned(make)[0])
    kinds = {re.sub("Bert|Lxmert|Attention(?=Output)", "", type(mixed.frozen).__name__) for mixed in original.mixed}
    assert {kind.replace("Self", "") for kind in kinds} == {"Attention", "Intermediate", "Output"}


def test_what_has_no_original_form_is_told() -> None:
    """A decision for a whole layer, and a model that normalises before: its LayerNorms stand outside the modules."""
    model, _ = learned(bert, strategy="spottune_block")
    with pytest.raises(UserError, match="needs strategy 'spottune', not 'spottune_block'"):
        OriginalForm(model)
    vit = ViTModel(ViTConfig(**SIZES, num_hidden_layers=1, image_size=16, patch_size=8))
    with pytest.raises(UserError, match="ViTModel has no original form"):
        OriginalForm(get_adaptive_model(vit))
