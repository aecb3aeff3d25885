"""BlockDrop: samples that skip a layer are not computed in it, and every gradient is that of the two-branch formula.

Shape suffixes: B batch, D decisions.
"""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.bypass import BypassBlock
from adaptive_ft.errors import UserError
from adaptive_ft.models import describe
from tests.models.tiny_families import LXMERT, TINY, WIDTH, Family

FAMILIES = {"lxmert": LXMERT, **TINY}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
THREE_FAMILIES = pytest.mark.parametrize("family", [FAMILIES[name] for name in ("lxmert", "vl_bert", "vit")])


class TwoBranches(nn.Module):
    """The formula as it stands: a * layer(x) + (1 - a) * x, the layer computed for every sample."""

    def __init__(self, layer: nn.Module, gate_B: Tensor, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.gate_B, self.inputs = layer, gate_B, inputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found, gates_B11 = self.layer(*args, **kwargs), self.gate_B[:, None, None]
        outputs = found if isinstance(found, tuple) else (found,)
        pairs = zip((args[place] for place in self.inputs), outputs, strict=True)
        mixed = tuple(gates_B11 * y + (1 - gates_B11) * x for x, y in pairs)
        return mixed if isinstance(found, tuple) else mixed[0]


def adapt(base: nn.Module, gate_grad_fraction: float = 1, **options: Any) -> AdaptiveModel:
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    config = AdaptiveConfig("blockdrop", policy=policy, gate_grad_fraction=gate_grad_fraction, **options)
    return get_adaptive_model(copy.deepcopy(base), config).eval()


def two_branches(base: nn.Module, gates_BD: Tensor) -> nn.Module:
    """A plain copy of the base that computes every layer for every sample."""
    reference = copy.deepcopy(base)
    for decision, block in enumerate(describe(base).blocks):
        inputs = (0, 2) if len(block.streams) == 2 else (0,)
        layer = TwoBranches(reference.get_submodule(block.path), gates_BD[:, decision], inputs)
        reference.set_submodule(block.path, layer)
    return reference


def pooled(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    output = model(**inputs, **options)
    found: Tensor = output["pooled_output"] if "pooled_output" in output else output["pooler_output"]
    return found


def double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def gradients(run: nn.Module, gates_BD: Tensor, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor | None]:
    """Of a fixed function of the pooled output: the gates', and the weights' under their names in the plain model."""
    weights = torch.linspace(-1, 1, WIDTH, dtype=gates_BD.dtype).exp()
    (pooled(run, inputs, **options) * weights).sum().backward()
    of_weights = {
        re.sub(r"(\.\d+)\.layer\.", r"\1.", name.removeprefix("base.")): value.grad
        for name, value in run.named_parameters()
        if not name.startswith("policy.")
    }
    return {**of_weights, "gates": gates_BD.grad}


@EVERY_FAMILY
def test_all_used_is_the_pretrained_model_bit_for_bit(family: Family) -> None:
    base, inputs = family.build(), family.inputs(4)
    model = adapt(base)
    assert model.pretrained_policy == "used"
    assert torch.equal(pooled(model, inputs, policy="used"), pooled(base, inputs))
    assert model.base.state_dict().keys() == base.state_dict().keys(), "weights keep their names"


@EVERY_FAMILY
def test_every_gradient_is_that_of_the_two_branches(family: Family) -> None:
    """In float64: outputs, weights, and gates; every sample's gate gradient is evaluated."""
    base, inputs = family.build().double(), double(family.inputs(6))
    model = adapt(base)
    gates_BD = torch.randint(0, 2, (6, len(model.decisions))).double()
    gates_BD[:, 0] = 0  # a layer that no sample uses still has a gradient, zero
    ours_BD, theirs_BD = gates_BD.clone().requires_grad_(), gates_BD.clone().requires_grad_()
    ours = gradients(model, ours_BD, inputs, policy=ours_BD)
    theirs = gradients(two_branches(base, theirs_BD), theirs_BD, inputs)
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        expected = theirs[name]
        if found is None or expected is None:
            assert found is expected, name
        else:
            assert (found - expected).norm() <= 1e-9 * expected.norm() + 1e-13, name


@THREE_FAMILIES
def test_a_share_of_the_gate_gradients_is_unbiased(family: Family) -> None:
    """The mean over all draws is the whole gradient: with 4 samples and share 1/4 each layer draws one of 4."""
    base, inputs = family.build().double(), double(family.inputs(4))
    whole, quarter = adapt(base), adapt(base, gate_grad_fraction=0.25)
    gates_BD = torch.randint(0, 2, (4, len(whole.decisions))).double()
    gates_BD[:, 1] = torch.tensor([0.0, 0.0, 1.0, 0.0])

    def of_gates(model: AdaptiveModel) -> Tensor:
        leaf_BD = gates_BD.clone().requires_grad_()
        found = gradients(model, leaf_BD, inputs, policy=leaf_BD)["gates"]
        assert found is not None
        return found

    expected_BD = of_gates(whole)
    by_draw: list[dict[int, Tensor]] = [{} for _ in quarter.decisions]
    for seed in range(100):
        quarter.holder.seed(seed)
        found_BD = of_gates(quarter)
        for decision, block in enumerate(quarter.anatomy.blocks):
            _, plan = quarter.holder.read(block.column, block.column + 1, 4, block.path)
            by_draw[decision][int(plan.sampled_CM)] = found_BD[:, decision]
    for decision, draws in enumerate(by_draw):
        assert len(draws) == 4, "every sample is drawn some time"
        mean_B = torch.stack(list(draws.values())).mean(0)
        torch.testing.assert_close(mean_B, expected_BD[:, decision], rtol=1e-9, atol=1e-13)
    assert (expected_BD[gates_BD == 0] != 0).any(), "skipping samples have a gradient too"


@THREE_FAMILIES
def test_only_the_samples_that_use_a_layer_are_computed(family: Family) -> None:
    """Counted at the last Linear of every layer, in evaluation and in training with a quarter of the gate gradients."""
    model, inputs = adapt(family.build(), gate_grad_fraction=0.25), family.inputs(8)
    gates_BD = (torch.rand(8, len(model.decisions)) < 0.4).float()
    gates_BD[:, 0], gates_BD[:, -1] = 0, 1
    rows = count_rows(model)
    pooled(model, inputs, policy=gates_BD)  # from here on every layer knows what it returns
    rows.clear()
    with torch.no_grad():
        pooled(model, inputs, policy=gates_BD)
    for decision, block in enumerate(model.anatomy.blocks):
        used = int(gates_BD[:, decision].sum())
        assert rows.get(block.path) == ([used] if used else None), block.path
    rows.clear()
    pooled(model, inputs, policy=gates_BD.clone().requires_grad_())
    for decision, block in enumerate(model.anatomy.blocks):
        used = int(gates_BD[:, decision].sum())
        assert rows[block.path][0] == max(1, used), "one sample stands in where none uses the layer"
        assert sum(rows[block.path][1:]) <= 2, "a quarter of 8, of those that skip"


def count_rows(model: AdaptiveModel) -> dict[str, list[int]]:
    """How many samples reach the last Linear of each layer, filled as it is called."""
    rows: dict[str, list[int]] = {}
    for block in model.anatomy.blocks:
        *_, last = (
            module for module in model.base.get_submodule(block.path).modules() if isinstance(module, nn.Linear)
        )

        def count(module: nn.Module, inputs: tuple[Tensor], _: Tensor, path: str = block.path) -> None:
            rows.setdefault(path, []).append(len(inputs[0]))

        last.register_forward_hook(count)
    return rows


@pytest.mark.parametrize("name", ["bert", "vit", "clip_vision"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    family = FAMILIES[name]
    base, inputs = family.build().double(), double(family.inputs(5))
    plain, checkpointed = adapt(base, gate_grad_fraction=0.5).train(), adapt(base, gate_grad_fraction=0.5).train()
    checkpointed.base.gradient_checkpointing_enable({"use_reentrant": False})
    gates_BD = torch.randint(0, 2, (5, len(plain.decisions))).double()
    found = []
    rows = count_rows(checkpointed)
    for model in (plain, checkpointed):
        model.holder.seed(3)
        leaf_BD = gates_BD.clone().requires_grad_()
        found.append(gradients(model, leaf_BD, inputs, policy=leaf_BD))
    for calls in rows.values():
        assert calls[: len(calls) // 2] == calls[len(calls) // 2 :], "the same samples, used and skipping, once more"
    for name, expected in found[0].items():
        assert (found[1][name] is None) == (expected is None), name
        if expected is not None:
            assert torch.equal(found[1][name], expected), name


def test_every_weight_of_the_layers_trains() -> None:
    model = adapt(FAMILIES["dinov2"].build())
    assert model.parameter_groups().keys() == {"other", "policy"}
    assert model.count_parameters()["frozen"] == 0
    assert model.adaptive_state_dict().keys() == model.state_dict().keys()


def test_what_needs_a_frozen_half_is_refused() -> None:
    model, inputs = adapt(TINY["bert"].build()), TINY["bert"].inputs(2)
    with pytest.raises(
        ValueError, match="policy 'frozen' is unknown to this strategy; give 'used', 'global', a tensor"
    ):
        model(**inputs, policy="frozen")
    with (
        pytest.raises(UserError, match="'blockdrop' cannot be disabled: it trains the one copy"),
        model.disable_adapter(),
    ):
        pass
    with pytest.raises(UserError, match="delta_rank 2 has no meaning for a strategy that trains the layers"):
        adapt(TINY["bert"].build(), delta_rank=2)


@pytest.mark.parametrize("name", ["lxmert", "vl_bert", "visual_bert", "vit"])
def test_attentions_are_refused_and_hidden_states_are_whole(name: str) -> None:
    """A skipped layer has no attentions; its hidden states are what came in."""
    model, inputs = adapt(FAMILIES[name].build()), FAMILIES[name].inputs(3)
    with pytest.raises(ValueError, match="output_attentions has no meaning for strategy 'blockdrop'"):
        model(**inputs, output_attentions=True)
    gates_BD = torch.ones(3, len(model.decisions))
    gates_BD[0, 1] = 0
    output = model(**inputs, policy=gates_BD, output_hidden_states=True)
    states = output["language_hidden_states" if name == "lxmert" else "hidden_states"]
    before, after = states[0 if name == "lxmert" else 1], states[1 if name == "lxmert" else 2]
    assert torch.equal(after[0], before[0])
    assert not torch.isclose(after[1:], before[1:]).all()


def test_attentions_asked_for_by_the_config_are_refused_too() -> None:
    model, inputs = adapt(LXMERT.build()), LXMERT.inputs(3)
    model.base.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions has no meaning"):
        model(**inputs)


def test_copies_and_pickles_have_a_holder_of_their_own() -> None:
    model, inputs = adapt(LXMERT.build()), LXMERT.inputs(3)
    gates_BD = torch.randint(0, 2, (3, 5)).float()
    expected = pooled(model, inputs, policy=gates_BD)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        blocks = [module for module in twin.modules() if isinstance(module, BypassBlock)]
        assert len(blocks) == 5
        assert all(block.holder is twin.holder is not model.holder for block in blocks)
        assert torch.equal(pooled(twin, inputs, policy=gates_BD), expected)


@pytest.mark.parametrize("patched", [0, 2])
def test_a_layer_with_a_forward_of_its_own_is_refused(patched: int) -> None:
    """Hooked by accelerate or patched by hand: the class's forward, and with it the gate, would never run."""
    base = TINY["bert"].build()
    layer = base.encoder.layer[patched]
    layer.forward = layer.forward
    kinds = [type(module) for module in base.modules()]
    with pytest.raises(
        UserError, match=rf"encoder\.layer\.{patched} has a forward of its own, .* adapt the model before"
    ):
        get_adaptive_model(base, AdaptiveConfig("blockdrop"))
    assert [type(module) for module in base.modules()] == kinds, "the layers before it are plain too"


def test_a_compiled_layer_is_refused() -> None:
    base = TINY["bert"].build()
    base.encoder.layer = nn.ModuleList(torch.compile(layer, backend="eager") for layer in base.encoder.layer)
    with pytest.raises(UserError, match=r"encoder\.layer\.0 has a forward of its own"):
        get_adaptive_model(base, AdaptiveConfig("blockdrop"))
