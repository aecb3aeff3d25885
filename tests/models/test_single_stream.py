"""Single-stream encoders found by their structure: every family through one table of behaviour.

Shape suffixes: B batch, C components, D decisions.
"""

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    VisualBertConfig,
    VisualBertModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from adaptive_ft.models import FAMILIES, describe, single_stream
from tests.models.tiny_families import FFN, HEADS, LAYERS, SIZES, TINY, Family

NUM_COMPONENTS = LAYERS * (HEADS + 3)
PARTS = ("attention.head.0", "attention.head.1", "attention.output", "ffn.in", "ffn.out")
SMALL_POLICY = PolicyConfig(embedding_size=4, hidden_size=8)
EVERY_FAMILY = pytest.mark.parametrize("family", TINY.values(), ids=TINY)


def adapt(base: nn.Module, strategy: str = "spottune", *, learned: bool = False) -> AdaptiveModel:
    """A copy of `base`, adapted; with `learned` every delta has a value, as after training."""
    model = get_adaptive_model(copy.deepcopy(base), AdaptiveConfig(strategy, policy=SMALL_POLICY)).eval()
    if learned:
        with torch.no_grad():
            for _, delta in model.parameter_groups()["delta"]:
                delta.normal_(std=0.2)
    return model


def summary(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs, **options).pooler_output


def test_the_table_covers_the_registry() -> None:
    """Every family that is found by structure."""
    by_structure = {backbone for backbone, family in FAMILIES.items() if family is single_stream.describe}
    assert {family.backbone for family in TINY.values()} == by_structure


@EVERY_FAMILY
def test_components_in_documented_order(family: Family) -> None:
    components = describe(family.build()).components
    assert components.names == tuple(f"layer.{layer}.{part}" for layer in range(LAYERS) for part in PARTS)
    assert all(components.live)


@EVERY_FAMILY
def test_every_weight_of_the_layers_never_trains(family: Family) -> None:
    """The layers are the modules of the classes that stand in lists with Linears in them, wherever they are."""
    model = family.build()
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and list(module.parameters())]
    kinds = {type(layer) for layers in lists for layer in layers}
    in_layers = [
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if type(layer) in kinds
        for name, _ in layer.named_parameters()
    ]
    assert sorted(describe(model).frozen_weights(model)) == sorted(in_layers)


@EVERY_FAMILY
def test_modules_play_the_roles_they_are_given(family: Family) -> None:
    """Seen from the outside: which modules of a layer read the same tensor, and which read a norm's output."""
    model = family.build()
    anatomy = describe(model)
    first: dict[str, list[nn.Module]] = defaultdict(list)
    for leaf in anatomy.leaves:
        component = anatomy.components.components[leaf.start]
        if component.layer == "layer.0":
            first[component.part].append(model.get_submodule(leaf.path))
    read: dict[nn.Module, Tensor] = {}
    made: dict[nn.Module, Tensor] = {}
    for module in (module for modules in first.values() for module in modules):
        module.register_forward_pre_hook(lambda module, inputs: read.update({module: inputs[0]}))
        module.register_forward_hook(lambda module, _, output: made.update({module: output}))
    summary(model, family.inputs(2))
    heads = [read[module] for module in first["attention"]]
    assert len(heads) == 3
    assert heads[0] is heads[1] is heads[2]
    output, attention_norm = first["attention.output"]
    assert read[output] is not heads[0]
    into, *gated_or_norm = first["ffn.in"]
    out, *norm = first["ffn.out"]
    assert made[out].shape == made[output].shape == heads[0].shape
    if norm:
        assert made[attention_norm] is read[into], "post-norm: the FFN reads the norm of the attention output"
        assert gated_or_norm == []
    else:
        assert made[attention_norm] is heads[0], "pre-norm: the heads read the first norm"
        assert made[gated_or_norm[-1]] is read[into], "and the FFN the second"


@EVERY_FAMILY
def test_all_frozen_is_the_pretrained_model_bit_for_bit(family: Family) -> None:
    base, inputs = family.build(), family.inputs(3)
    plain = summary(base, inputs)
    assert torch.equal(summary(adapt(base, learned=True), inputs, policy="frozen"), plain)
    assert torch.equal(summary(adapt(base), inputs, policy="tuned"), plain), "deltas are zero at the start"


@EVERY_FAMILY
def test_every_decision_changes_the_result_once_deltas_differ(family: Family) -> None:
    model, inputs = adapt(family.build(), learned=True), family.inputs(2)
    gates_BD = torch.randint(0, 2, (2, NUM_COMPONENTS)).float()
    before = summary(model, inputs, policy=gates_BD)
    for decision in range(NUM_COMPONENTS):
        flipped_BD = gates_BD.clone()
        flipped_BD[0, decision] = 1 - flipped_BD[0, decision]
        after = summary(model, inputs, policy=flipped_BD)
        assert (after[0] - before[0]).abs().max() > 1e-6, model.decisions[decision]
        assert torch.allclose(after[1], before[1], atol=1e-6), "the other sample does not notice"


@EVERY_FAMILY
def test_permuting_the_batch_permutes_the_result(family: Family) -> None:
    model, inputs = adapt(family.build(), learned=True), family.inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    moved = {name: value[order] for name, value in inputs.items()}
    torch.testing.assert_close(summary(model, moved), summary(model, inputs)[order], rtol=1e-5, atol=1e-5)


@EVERY_FAMILY
def test_gradients_only_where_they_belong(family: Family) -> None:
    model = adapt(family.build(), learned=True).train()
    model(**family.inputs(4)).pooler_output.square().sum().backward()
    groups = model.parameter_groups()
    trained = {name for members in groups.values() for name, _ in members}
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient <= trained
    assert {name for name, _ in (*groups["delta"], *groups["policy"])} <= with_gradient
    frozen = {f"base.{name}" for name in describe(family.build()).frozen_weights(family.build())}
    assert not frozen & with_gradient


@pytest.mark.parametrize("name", ["vl_bert", "vit"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    """Through transformers' own switch; the gates that the policy sampled hold until the backward is over."""
    base, inputs = TINY[name].build(), TINY[name].inputs(4)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        model = adapt(base, learned=True).train()
        runs: list[int] = []
        if recompute:
            model.base.gradient_checkpointing_enable({"use_reentrant": False})
        # A Linear of the first layer, which runs once more when its layer is recomputed.
        inner = next(
            module
            for module in model.base.get_submodule(model.anatomy.blocks[0].path).modules()
            if not list(module.children())
        )
        inner.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        torch.manual_seed(2)
        model(**inputs).pooler_output[:, 0].sum().backward()
        assert len(runs) == 1 + recompute
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert any("policy" in key for key in plain)
    for key, value in plain.items():
        torch.testing.assert_close(recomputed[key], value, rtol=1e-5, atol=1e-7, msg=key)


def test_reentrant_recomputation_is_refused_in_one_sentence() -> None:
    model = adapt(TINY["vl_bert"].build(), learned=True).train()
    model.base.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match=r"re-entrant activation checkpointing .* use_reentrant=False"):
        model(**TINY["vl_bert"].inputs(4)).pooler_output[:, 0].sum().backward()


@EVERY_FAMILY
def test_unloading_gives_the_plain_model_back(family: Family) -> None:
    base, inputs = family.build(), family.inputs(2)
    plain = adapt(base, learned=True).unload()
    assert torch.equal(summary(plain, inputs), summary(base, inputs))
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert all(parameter.requires_grad for parameter in plain.parameters())
    merged = adapt(base, "standard", learned=True)
    tuned = summary(merged, inputs)
    torch.testing.assert_close(summary(merged.merge_and_unload(), inputs), tuned, rtol=1e-5, atol=1e-6)


@EVERY_FAMILY
def test_saved_and_loaded_without_a_frozen_weight(family: Family, tmp_path: Path) -> None:
    base, inputs = family.build(), family.inputs(2)
    model = adapt(base, learned=True)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adaptive_model.safetensors", "pt") as file:
        assert not {f"base.{name}" for name in model.anatomy.frozen_weights(base)} & set(file.keys())
    loaded = AdaptiveModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.equal(summary(loaded, inputs), summary(model, inputs))
    other = family.build()
    with pytest.raises(UserError, match="the base model differs"):
        AdaptiveModel.from_pretrained(other, tmp_path)


@pytest.mark.parametrize(
    ("model_class", "prefix", "head"),
    [(BertForQuestionAnswering, "bert", "qa_outputs"), (ViTForImageClassification, "vit", "classifier")],
)
def test_a_model_with_a_head_keeps_it_outside(model_class: type[nn.Module], prefix: str, head: str) -> None:
    adapted = adapt(model_class(TINY[prefix].config()))
    assert adapted.anatomy.prefix == prefix
    assert [name for name, _ in adapted.parameter_groups()["head"]] == [f"base.{head}.weight", f"base.{head}.bias"]


def layers_of(count: int, make: Any) -> BertModel:
    """A tiny BERT whose layers are replaced by others."""
    model = TINY["bert"].build()
    model.encoder.layer = nn.ModuleList(make() for _ in range(count))
    return model


FUSED = ((8, 24), (8, 8), (8, 20), (20, 8))
CROSS = ((8, 8),) * 8 + ((8, 20), (20, 8))


def linears(shapes: tuple[tuple[int, int], ...]) -> nn.Module:
    return nn.Sequential(*(nn.Linear(*shape) for shape in shapes))


@pytest.mark.parametrize(
    ("count", "make", "told"),
    [
        (
            LAYERS,
            lambda: linears(FUSED),
            r"layer.0: '0' computes query, key and value in one Linear \(8 -> 24\)",
        ),
        (
            LAYERS,
            lambda: linears(CROSS),
            r"nothing can be gated. Looked for three equal .*; found '0' 8 -> 8, '1'",
        ),
        (LAYERS, nn.Identity, r"Looked for one list of 3 modules .*; found no list of modules with Linears"),
        (LAYERS + 1, lambda: linears(CROSS), r"one list of 3 modules .*; found 'encoder.layer' of 4 Sequential"),
        (LAYERS, lambda: linears((*[(8, 8)] * 4, (8, 20), (20, 8))), "looked for one LayerNorm beside .*; found none"),
    ],
    ids=["fused", "cross", "empty", "count", "norms"],
)
def test_what_cannot_be_gated_is_refused_in_one_sentence(count: int, make: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        describe(layers_of(count, make))


@pytest.mark.parametrize("name", ["bert", "roberta", "vl_bert"])
def test_a_causal_model_is_refused(name: str) -> None:
    model = TINY[name].build()
    model.config.is_decoder = True
    with pytest.raises(UserError, match=r"is_decoder is set.*later tokens would steer"):
        describe(model)


def test_a_layer_outside_the_stack_is_refused() -> None:
    """VisualBERT's, through which only the whole row passes, would train in every strategy."""
    model = VisualBertModel(VisualBertConfig(**SIZES, **FFN, vocab_size=30, bypass_transformer=True))
    with pytest.raises(UserError, match="'additional_layer' is one more VisualBertLayer outside the list"):
        describe(model)


def test_heads_must_divide_the_projections() -> None:
    model = TINY["bert"].build()
    model.config.num_attention_heads = 3
    with pytest.raises(UserError, match="8 outputs, which 3 heads do not divide"):
        describe(model)


@pytest.mark.parametrize(
    ("backbone", "config", "millions"),
    [(BertModel, BertConfig, 85.054464), (ViTModel, ViTConfig, 85.054464), (Dinov2Model, Dinov2Config, 85.072896)],
)
def test_sizes_at_base_size(backbone: type[nn.Module], config: type, millions: float) -> None:
    with torch.device("meta"):
        model = backbone(config())
    anatomy = describe(model)
    assert len(anatomy.components) == 180
    assert sum(weight.numel() for weight in anatomy.frozen_weights(model).values()) == round(millions * 1e6)
