"""Gates go in where something may be tuned or skipped, and come out plain."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.bypass import BypassBlock
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLayerNorm, GatedLinear
from adaptive_ft.models import Leaf, describe
from adaptive_ft.strategies import FROZEN, TUNED
from adaptive_ft.wrapping import unwrap, wrap
from tests.models.tiny_families import LXMERT, TINY, Family

LEAVES = (Leaf("0", 0, 2, "a.dense"), Leaf("1", 2, 3, "a.norm"))


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


class Rescaled(nn.Linear):
    """A Linear that does something else with its weight, as quantised and otherwise adapted ones do."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def patch(linear: nn.Linear) -> nn.Linear:
    linear.forward = linear.forward  # type: ignore[method-assign]
    return linear


def hook(linear: nn.Linear) -> nn.Linear:
    linear.register_forward_hook(lambda module, inputs, output: output)
    return linear


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda linear: Rescaled(3, 4), "0 is a Rescaled, which computes something else than a Linear"),
        (patch, "0 has a forward of its own"),
        (hook, "0 has hooks, which its gated form would not have"),
        (weight_norm, "0 is parametrized .* call torch.nn.utils.parametrize.remove_parametrizations"),
    ],
    ids=["class", "patch", "hook", "parametrized"],
)
def test_leaves_that_are_not_plain_are_refused(model: Any, make: Any, told: str) -> None:
    """Their gated form computes what a plain leaf does: anything else they do would be gone without a word."""
    model[0] = make(model[0])
    with pytest.raises(UserError, match=told):
        wrap(model, LEAVES, (TUNED, TUNED, TUNED), GateHolder())
    wrap(model, LEAVES, (FROZEN, FROZEN, TUNED), GateHolder())  # a leaf without a gate stays what it is


def test_a_parametrized_leaf_is_refused_and_adapted_once_it_is_plain() -> None:
    base = TINY["bert"].build()
    value = base.encoder.layer[1].output.dense
    weight_norm(value)
    with pytest.raises(UserError, match=r"encoder\.layer\.1\.output\.dense is parametrized"):
        get_adaptive_model(base, AdaptiveConfig())
    remove_parametrizations(value, "weight")
    assert get_adaptive_model(base, AdaptiveConfig()).base is base


REFUSED: dict[str, tuple[AdaptiveConfig, str]] = {
    "rank": (AdaptiveConfig(delta_rank=9), "delta_rank is 9"),
    "rank of blocks": (AdaptiveConfig("blockdrop", delta_rank=2), "delta_rank 2 has no meaning"),
    "layers": (AdaptiveConfig("last_7"), "needs K from 1 to 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_leaves_the_model_as_it_was(case: str) -> None:
    """Modules, which weights train, and the mode of every module; the same model can be adapted afterwards."""
    base = TINY["bert"].build()
    base.embeddings.requires_grad_(False)
    base.encoder.layer[1].train()
    before = list(base.named_modules())
    trains = {name: weight.requires_grad for name, weight in base.named_parameters()}
    modes = {name: module.training for name, module in before}
    config, told = REFUSED[case]
    with pytest.raises(UserError, match=told):
        get_adaptive_model(base, config)
    assert list(base.named_modules()) == before
    assert {name: weight.requires_grad for name, weight in base.named_parameters()} == trains
    assert {name: module.training for name, module in base.named_modules()} == modes
    assert get_adaptive_model(base, AdaptiveConfig()).base is base


def test_no_memory_for_the_deltas_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    base = TINY["bert"].build().requires_grad_(False)
    before = list(base.named_modules())

    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(GatedLayerNorm, "from_layer_norm", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        get_adaptive_model(base, AdaptiveConfig())
    assert list(base.named_modules()) == before
    assert not any(weight.requires_grad for weight in base.parameters())


@pytest.mark.parametrize("strategy", ["spottune", "blockdrop"])
@pytest.mark.parametrize("inside", ["", "base", "base.encoder", "base.encoder.layer.1"])
def test_what_is_adapted_already_is_refused(strategy: str, inside: str) -> None:
    model = get_adaptive_model(TINY["bert"].build(), AdaptiveConfig(strategy))
    for part in (model.get_submodule(inside), nn.Sequential(model.get_submodule(inside))):
        with pytest.raises(UserError, match="the model is adapted already"):
            get_adaptive_model(part, AdaptiveConfig())


def blockdrop(base: nn.Module) -> AdaptiveModel:
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    return get_adaptive_model(base, AdaptiveConfig("blockdrop", policy=policy)).eval()


def pooled(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    output = model(**inputs, **options)
    found: Tensor = output["pooled_output" if "pooled_output" in output else "pooler_output"]
    return found


@pytest.mark.parametrize("family", [LXMERT, *TINY.values()], ids=["lxmert", *TINY])
def test_dropping_layers_gives_a_smaller_plain_model(family: Family, tmp_path: Path) -> None:
    """Equal to the forced decisions, loadable by its class, of plain classes only."""
    model, inputs = blockdrop(family.build()), family.inputs(3)
    decisions = torch.ones(len(model.decisions))
    decisions[1] = decisions[2] = 0
    expected = pooled(model, inputs, policy=decisions.expand(3, -1))
    merged = model.merge_and_unload(decisions)
    assert not [module for module in merged.modules() if isinstance(module, BypassBlock)]
    assert len(describe(merged).blocks) == len(decisions) - 2
    merged.save_pretrained(tmp_path)
    loaded = family.backbone.from_pretrained(tmp_path)
    assert loaded.config.to_dict() == {**merged.config.to_dict(), "_name_or_path": str(tmp_path)}
    for smaller in (merged, loaded):
        torch.testing.assert_close(pooled(smaller, inputs), expected, rtol=0, atol=1e-6)


def test_lxmert_counts_each_kind_of_layer() -> None:
    merged = blockdrop(LXMERT.build()).merge_and_unload(torch.tensor([0.0, 1, 0, 1, 1]))
    config = merged.config
    assert (config.l_layers, config.r_layers, config.x_layers) == (1, 0, 2)
    assert config.num_hidden_layers == {"language": 1, "vision": 0, "cross_encoder": 2}


@pytest.mark.parametrize(
    ("family", "kept", "bare"),
    [(TINY["bert"], [], "hidden_states"), (LXMERT, [0, 1], "region")],
    ids=["bert", "lxmert"],
)
def test_a_model_needs_a_layer_on_every_stream(family: Family, kept: list[int], bare: str) -> None:
    model = blockdrop(family.build())
    decisions = torch.zeros(len(model.decisions))
    decisions[kept] = 1
    with pytest.raises(UserError, match=f"no layer would be left for {bare}; keep at least one"):
        model.merge_and_unload(decisions)
    pooled(model, family.inputs(2))  # the refusal has changed nothing


def test_unloading_gives_every_layer_back_as_it_is_now() -> None:
    base, inputs = TINY["bert"].build(), TINY["bert"].inputs(3)
    model = blockdrop(copy.deepcopy(base))
    with torch.no_grad():
        model.base.encoder.layer[1].output.dense.weight.add_(1.0)
    expected = pooled(model, inputs, policy="used")
    plain = model.unload()
    assert [type(module) for module in plain.modules()] == [type(module) for module in base.modules()]
    assert vars(plain.encoder.layer[0]).keys() == vars(base.encoder.layer[0]).keys()
    assert torch.equal(pooled(plain, inputs), expected)
    assert not torch.equal(pooled(base, inputs), expected)
