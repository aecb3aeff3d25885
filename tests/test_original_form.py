"""The original's form of an adapted model: the same outputs for gates of 0 and 1, mixed where the original mixes."""

import copy
import pickle
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LxmertConfig, LxmertModel, ViTConfig, ViTModel

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.errors import UserError
from adaptive_ft.original_form import MixedModule

Made = Callable[[], tuple[Any, dict[str, Tensor]]]
SIZES: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}


def bert() -> tuple[BertModel, dict[str, Tensor]]:
    return BertModel(BertConfig(**SIZES, num_hidden_layers=2, vocab_size=9)), WORDS


def lxmert() -> tuple[LxmertModel, dict[str, Tensor]]:
    config = LxmertConfig(**SIZES, l_layers=1, r_layers=1, x_layers=2, vocab_size=9, visual_feat_dim=4)
    regions = {"visual_feats": torch.randn(2, 3, 4), "visual_pos": torch.rand(2, 3, 4)}
    return LxmertModel(config), WORDS | regions


def learned(make: Made, **options: Any) -> tuple[AdaptiveModel, dict[str, Tensor]]:
    """An adapted model in the original's form with deltas that change the output, and inputs of two samples."""
    base, inputs = make()
    model = get_adaptive_model(base, AdaptiveConfig(gate_gradient="original", **options)).double().eval()
    for _, delta in model.parameter_groups()["delta"]:
        torch.nn.init.normal_(delta, std=0.2)
    return model, {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def mixed_modules(model: AdaptiveModel) -> list[Any]:
    return [module for module in model.base.modules() if isinstance(module, MixedModule)]


def chosen(model: AdaptiveModel) -> AdaptiveModel:
    """The same model with weights that are chosen: what its config alone decides."""
    base = copy.deepcopy(model).unload()
    twin = get_adaptive_model(base, AdaptiveConfig(delta_rank=model.config.delta_rank)).double().eval()
    twin.load_state_dict(model.state_dict())
    return twin


def pooled(outputs: Any) -> Tensor:
    return outputs.pooled_output if "pooled_output" in outputs else outputs.pooler_output


@pytest.mark.parametrize("options", [{}, {"delta_rank": 2}], ids=str)
@pytest.mark.parametrize("make", [bert, lxmert])
def test_it_differs_from_chosen_weights_in_the_gate_gradients_alone(make: Made, options: dict[str, Any]) -> None:
    """For gates of 0 and 1: outputs and all other gradients are equal to 1e-9, and so are the names of all weights."""
    model, inputs = learned(make, **options)
    twin = chosen(model)
    assert len(mixed_modules(model)) == len({leaf.path.rpartition(".")[0] for leaf in model.anatomy.leaves})
    assert not mixed_modules(twin)
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
    of_gates = []
    for form in (model, twin):
        asked_BD = gates_BD.clone().requires_grad_()
        output = pooled(form(**inputs, policy=asked_BD))
        (output * torch.linspace(-1, 2, output.shape[1])).sum().backward()
        assert asked_BD.grad is not None
        of_gates.append((output.detach(), asked_BD.grad))
    (output, original_BD), (expected, first_order_BD) = of_gates
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(original_BD, first_order_BD, rtol=1e-2)
    weights = dict(twin.named_parameters())
    for name, weight in model.named_parameters():
        expected_gradient = weights[name].grad
        assert (weight.grad is None) == (expected_gradient is None), name
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, expected_gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_a_gate_gradient_is_the_difference_of_two_outputs() -> None:
    """Of the last FFN out, whose output after the LayerNorm is the model's."""
    model, inputs = learned(bert)
    last = model.decisions.index("layer.1.ffn.out")
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
    hidden = []
    with torch.no_grad():
        for gate in (0.0, 1.0):
            gates_BD[:, last] = gate
            hidden.append(model(**inputs, policy=gates_BD).last_hidden_state)
    frozen, tuned = hidden
    assert not torch.allclose(frozen, tuned)
    weights = torch.randn_like(frozen)
    asked_BD = gates_BD.clone().requires_grad_()
    (model(**inputs, policy=asked_BD).last_hidden_state * weights).sum().backward()
    assert asked_BD.grad is not None
    torch.testing.assert_close(asked_BD.grad[:, last], ((tuned - frozen) * weights).sum(dim=(1, 2)))


def test_both_copies_of_a_head_attend_before_they_are_mixed() -> None:
    """The gradient of the heads is that of contexts computed apart, from all tuned and from all frozen projections."""
    model, inputs = learned(bert)
    attention, heads = model.base.encoder.layer[0].attention.self, slice(0, 2)
    contexts: list[Tensor] = []
    attention.register_forward_hook(lambda _, __, output: contexts.append(output[0]))
    gates_BD = torch.zeros(2, len(model.decisions)).double()
    with torch.no_grad():
        for gate in (0.0, 1.0):
            gates_BD[:, heads] = gate
            model(**inputs, policy=gates_BD)
    asked_BD = torch.randint(0, 2, gates_BD.shape).double().requires_grad_()
    model(**inputs, policy=asked_BD)
    frozen, tuned, mixed = contexts
    weights = torch.randn_like(mixed)
    (gradient_BD,) = torch.autograd.grad((mixed * weights).sum(), asked_BD)
    expected_BC = ((tuned - frozen) * weights).detach().unflatten(-1, (2, -1)).sum(dim=(1, 3))
    torch.testing.assert_close(gradient_BD[:, heads], expected_BC)


def test_without_a_gate_gradient_each_module_runs_once() -> None:
    """In evaluation it costs what chosen weights cost."""
    model, inputs = learned(bert)
    runs: Counter[str] = Counter()
    for name, module in model.base.named_modules():
        if name.endswith("query"):
            module.register_forward_hook(lambda *_, name=name: runs.update([name]))
    with torch.no_grad():
        model(**inputs)
    assert set(runs.values()) == {1}
    model.train()(**inputs)
    assert set(runs.values()) == {3}


@pytest.mark.parametrize("make", [bert, lxmert])
def test_whole_modules_are_mixed(make: Made) -> None:
    """Softmax, GELU and LayerNorm lie inside them: an attention's context, FFN in, and both outputs."""
    kinds = {type(module).__bases__[1].__name__ for module in mixed_modules(learned(make)[0])}
    plain = {re.sub("Bert|Lxmert|Sdpa|Self|Attention(?=Output)", "", kind) for kind in kinds}
    assert plain == {"Attention", "Intermediate", "Output"}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_and_a_plain_model_come_out_of_it(duplicate: Callable[[AdaptiveModel], AdaptiveModel]) -> None:
    model, inputs = learned(bert)
    tuned = pooled(model(**inputs, policy="tuned"))
    twin = duplicate(model)
    assert {module.holder for module in mixed_modules(twin)} == {twin.holder}
    torch.testing.assert_close(pooled(twin(**inputs, policy="tuned")), tuned)
    plain = model.merge_and_unload("tuned")
    assert not [module for module in plain.modules() if isinstance(module, MixedModule)]
    torch.testing.assert_close(pooled(plain(**inputs)), tuned)
    assert type(plain.encoder.layer[0].attention.self).__module__.startswith("transformers")


def test_recomputed_layers_mix_alike() -> None:
    model, inputs = learned(bert)
    twin = copy.deepcopy(model).train()
    model.train().gradient_checkpointing_enable()
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
    gradients = []
    for form in (model, twin):
        for module in form.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        asked_BD = gates_BD.clone().requires_grad_()
        pooled(form(**inputs, policy=asked_BD)).square().sum().backward()
        gradients.append(asked_BD.grad)
    torch.testing.assert_close(*gradients)


def test_what_has_no_original_form_is_told() -> None:
    """A decision for a whole layer, and a model that normalises before: its LayerNorms stand outside the modules."""
    for strategy in ("spottune_block", "standard", "blockdrop"):
        with pytest.raises(UserError, match="one decision per component: take strategy 'spottune'"):
            learned(bert, strategy=strategy)
    vit = ViTModel(ViTConfig(**SIZES, num_hidden_layers=1, image_size=16, patch_size=8))
    with pytest.raises(UserError, match="This model has no original form"):
        get_adaptive_model(vit, AdaptiveConfig(gate_gradient="original"))
