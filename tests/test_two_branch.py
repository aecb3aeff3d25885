"""Gate gradients of two branches: the same outputs for gates of 0 and 1, mixed where the original mixes them."""

import copy
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LxmertConfig, LxmertModel, ViTConfig, ViTModel

from adaptive_ft import AdaptiveConfig, get_adaptive_model, two_branch
from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.analysis.flips import kinds_of
from adaptive_ft.errors import UserError
from adaptive_ft.two_branch import TwoBranchModule
from tests.models.tiny_families import TINY

Made = Callable[[], tuple[Any, dict[str, Tensor]]]
SIZES: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}


def bert() -> tuple[BertModel, dict[str, Tensor]]:
    return BertModel(BertConfig(**SIZES, num_hidden_layers=2, vocab_size=9)), WORDS


def lxmert() -> tuple[LxmertModel, dict[str, Tensor]]:
    config = LxmertConfig(**SIZES, l_layers=1, r_layers=1, x_layers=2, vocab_size=9, visual_feat_dim=4)
    regions = {"visual_feats": torch.randn(2, 3, 4), "visual_pos": torch.rand(2, 3, 4)}
    return LxmertModel(config), WORDS | regions


def vl_bert() -> tuple[Any, dict[str, Tensor]]:
    return TINY["vl_bert"].build(), TINY["vl_bert"].inputs(2)


def learned(make: Made, **options: Any) -> tuple[AdaptiveModel, dict[str, Tensor]]:
    """An adapted model that computes both branches, with deltas that change the output, and inputs of two samples."""
    base, inputs = make()
    model = get_adaptive_model(base, AdaptiveConfig(gate_gradient="two_branch", **options)).double().eval()
    for _, delta in model.parameter_groups()["delta"]:
        torch.nn.init.normal_(delta, std=0.2)
    return model, {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def two_branch_modules(model: AdaptiveModel) -> list[Any]:
    return [module for module in model.base.modules() if isinstance(module, TwoBranchModule)]


def chosen(model: AdaptiveModel) -> AdaptiveModel:
    """The same model with weights that are chosen: what its config alone decides."""
    base = copy.deepcopy(model).unload()
    twin = get_adaptive_model(base, AdaptiveConfig(delta_rank=model.config.delta_rank)).double().eval()
    twin.load_state_dict(model.state_dict())
    return twin


def pooled(outputs: Any) -> Tensor:
    found: Tensor = next(outputs[name] for name in ("pooled_output", "pooler_output") if name in outputs)
    return found


@pytest.mark.parametrize("options", [{}, {"delta_rank": 2}], ids=str)
@pytest.mark.parametrize("make", [bert, lxmert, vl_bert])
def test_it_differs_from_chosen_weights_in_the_gate_gradients_alone(make: Made, options: dict[str, Any]) -> None:
    """For gates of 0 and 1: outputs and all other gradients are equal to 1e-9, and so are the names of all weights.
    Of the gates every kind of component has gradients that differ.
    """
    model, inputs = learned(make, **options)
    twin = chosen(model)
    assert len(two_branch_modules(model)) == len({leaf.path.rpartition(".")[0] for leaf in model.anatomy.leaves})
    assert not two_branch_modules(twin)
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
    of_gates = []
    for form in (model, twin):
        asked_BD = gates_BD.clone().requires_grad_()
        output = pooled(form(**inputs, policy=asked_BD))
        (output * torch.linspace(-1, 2, output.shape[1])).sum().backward()
        assert asked_BD.grad is not None
        of_gates.append((output.detach(), asked_BD.grad))
    (output, two_branch_BD), (expected, first_order_BD) = of_gates
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    live = [number for number, is_live in enumerate(model.tying.live) if is_live]
    kinds = np.array(kinds_of(model.tying, model.components))
    differs_L = ((two_branch_BD - first_order_BD).abs() > 1e-2 * first_order_BD.abs()).any(dim=0)[live].numpy()
    assert {kind for kind in kinds if differs_L[kinds == kind].any()} == set(kinds)
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
    kinds = {type(module).__bases__[1].__name__ for module in two_branch_modules(learned(make)[0])}
    plain = {re.sub("Bert|Lxmert|Sdpa|Self|Attention(?=Output)", "", kind) for kind in kinds}
    assert plain == {"Attention", "Intermediate", "Output"}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_and_a_plain_model_come_out_of_it(duplicate: Callable[[AdaptiveModel], AdaptiveModel]) -> None:
    model, inputs = learned(bert)
    tuned = pooled(model(**inputs, policy="tuned"))
    twin = duplicate(model)
    assert {module.holder for module in two_branch_modules(twin)} == {twin.holder}
    torch.testing.assert_close(pooled(twin(**inputs, policy="tuned")), tuned)
    plain = model.merge_and_unload("tuned")
    assert not [module for module in plain.modules() if isinstance(module, TwoBranchModule)]
    torch.testing.assert_close(pooled(plain(**inputs)), tuned)
    assert type(plain.encoder.layer[0].attention.self).__module__.startswith("transformers")


def test_recomputed_layers_mix_alike() -> None:
    """With dropout: a layer that runs once more draws what it drew."""
    model, inputs = learned(bert)
    twin = copy.deepcopy(model).train()
    model.train().gradient_checkpointing_enable()
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double()
    gradients, runs = [], []
    for form in (model, twin):
        calls: list[None] = []
        query = form.base.encoder.layer[0].attention.self.query
        query.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        torch.manual_seed(7)
        asked_BD = gates_BD.clone().requires_grad_()
        pooled(form(**inputs, policy=asked_BD)).square().sum().backward()
        gradients.append(asked_BD.grad)
        runs.append(len(calls))
    assert runs == [4, 2]
    torch.testing.assert_close(*gradients)


def test_each_branch_draws_its_own_dropout() -> None:
    """As in the original: with deltas of zero the branches differ by their masks alone, and so does the gradient."""
    model, inputs = learned(bert)
    for _, delta in model.parameter_groups()["delta"]:
        torch.nn.init.zeros_(delta)
    for training in (False, True):
        asked_BD = torch.ones(2, len(model.decisions)).double().requires_grad_()
        (gradient_BD,) = torch.autograd.grad(
            pooled(model.train(training)(**inputs, policy=asked_BD)).square().sum(), asked_BD
        )
        assert bool(gradient_BD.any()) == training


def test_bf16_loses_no_more_than_its_inputs() -> None:
    """The gate gradient of bf16 outputs that differ by 1 %, against float64: within 2 % of what a random one has."""
    frozen = torch.randn(4, 32, 768).bfloat16()
    tuned = (frozen + 0.01 * torch.randn(4, 32, 768)).bfloat16()
    weights = torch.randn(4, 32, 768).bfloat16()
    gates_B1 = torch.tensor([[0.0], [1.0], [1.0], [0.0]], requires_grad=True)
    mixed = two_branch._mixed(gates_B1, frozen, tuned)
    assert torch.equal(mixed, torch.where(gates_B1.unsqueeze(1) > 0, tuned, frozen))
    mixed.backward(weights)
    expected_B1 = ((tuned.double() - frozen.double()) * weights.double()).sum(dim=(1, 2)).unsqueeze(1)
    assert gates_B1.grad is not None
    spread = ((tuned.double() - frozen.double()) * weights.double()).square().sum(dim=(1, 2)).sqrt().unsqueeze(1)
    assert ((gates_B1.grad - expected_B1).abs() < 0.02 * spread).all()


def test_what_a_file_holds_is_the_same(tmp_path: Path) -> None:
    """Saved and loaded; the gate gradient is an option of the file, as every other."""
    base, inputs = bert()
    plain = copy.deepcopy(base)
    model = get_adaptive_model(base, AdaptiveConfig(gate_gradient="two_branch")).eval()
    for _, delta in model.parameter_groups()["delta"]:
        torch.nn.init.normal_(delta, std=0.2)
    model.save_pretrained(tmp_path)
    loaded = AdaptiveModel.from_pretrained(plain, tmp_path).eval()
    assert len(two_branch_modules(loaded)) == len(two_branch_modules(model)) > 0
    assert loaded.state_dict().keys() == model.state_dict().keys()
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).float()
    asked = [form(**inputs, policy=gates_BD).last_hidden_state for form in (model, loaded)]
    torch.testing.assert_close(*asked)


def test_an_error_inside_a_branch_leaves_the_gates_as_they_were() -> None:
    model, inputs = learned(bert)
    gates_BD = torch.randint(0, 2, (2, len(model.decisions))).double().requires_grad_()
    expected = pooled(model(**inputs, policy=gates_BD))
    dense = model.base.encoder.layer[1].output.dense

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = dense.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(**inputs, policy=gates_BD)
    handle.remove()
    columns = next(module.columns for module in two_branch_modules(model) if dense in module.children())
    found, _ = model.holder.read(*columns, 2, "ffn.out")
    assert torch.equal(found, gates_BD[:, slice(*columns)])
    torch.testing.assert_close(pooled(model(**inputs, policy=gates_BD)), expected)


@pytest.mark.parametrize("strategy", ["spottune_block", "standard", "blockdrop"])
def test_components_that_share_a_decision_are_refused(strategy: str) -> None:
    with pytest.raises(UserError, match=r"here 10 components have \d decisions: take strategy 'spottune'"):
        learned(bert, strategy=strategy)


def test_a_model_that_normalises_before_is_refused() -> None:
    """Its LayerNorms stand outside the modules that the original mixes."""
    vit = ViTModel(ViTConfig(**SIZES, num_hidden_layers=1, image_size=16, patch_size=8))
    with pytest.raises(UserError, match="ViTModel has no two_branch gate gradients"):
        get_adaptive_model(vit, AdaptiveConfig(gate_gradient="two_branch"))


@pytest.mark.parametrize(("attribute", "told"), [("forward", "has a forward of its own"), ("name", "attribute 'name'")])
def test_a_refused_module_leaves_the_model_as_it_was(attribute: str, told: str) -> None:
    """Also its leaves, which are gated only when nothing stands in the way."""
    base, _ = bert()
    module = base.encoder.layer[1].output
    before = list(base.named_modules())
    vars(module)[attribute] = module.forward
    with pytest.raises(UserError, match=told):
        get_adaptive_model(base, AdaptiveConfig(gate_gradient="two_branch"))
    assert list(base.named_modules()) == before
