"""LXMERT's components: the original's decision vector, its dead columns, and that every weight is covered."""

import pytest
import torch
from torch import nn
from transformers import LxmertConfig, LxmertForQuestionAnswering, LxmertModel

from adaptive_ft.errors import UserError
from adaptive_ft.models import Anatomy, describe
from adaptive_ft.strategies import tie


def make(model_class: type[nn.Module] = LxmertModel, **sizes: int) -> nn.Module:
    with torch.device("meta"):
        return model_class(LxmertConfig(**sizes))


@pytest.fixture(scope="module")
def base_size() -> Anatomy:
    return describe(make())


def test_the_originals_decision_vector_at_base_size(base_size: Anatomy) -> None:
    names = base_size.components.names
    assert len(names) == 425
    assert len(set(names)) == 425
    assert names[0] == "language.0.attention.head.0"
    assert names[12:15] == ("language.0.attention.output", "language.0.ffn.in", "language.0.ffn.out")
    assert names[135] == "region.0.attention.head.0"
    assert names[210] == "cross.0.cross_attention.head.0"
    assert names[222:224] == ("cross.0.cross_attention.output", "cross.0.language_attention.head.0")
    assert names[236] == "cross.0.region_attention.head.0"
    assert names[248:253] == (
        "cross.0.region_attention.output",
        "cross.0.language_ffn.in",
        "cross.0.region_ffn.in",
        "cross.0.language_ffn.out",
        "cross.0.region_ffn.out",
    )
    assert names[424] == "cross.4.region_ffn.out"


def test_the_originals_dead_columns_at_base_size(base_size: Anatomy) -> None:
    dead = [column for column, live in enumerate(base_size.components.live) if not live]
    assert dead == [*range(408, 421), 422, 424]


@pytest.mark.parametrize(("strategy", "count"), [("spottune", 425), ("spottune_res", 38), ("spottune_block", 19)])
def test_numbers_of_decisions_at_base_size(base_size: Anatomy, strategy: str, count: int) -> None:
    tying = tie(strategy, base_size.components)
    assert len(tying.decisions) == count
    assert tying.live.count(False) == (15 if strategy == "spottune" else 0)


def test_sizes_come_from_the_model() -> None:
    anatomy = describe(make(l_layers=2, r_layers=1, x_layers=3, num_attention_heads=16, hidden_size=64))
    assert len(anatomy.components) == 3 * 19 + 3 * (3 * 17 + 4)
    assert anatomy.components.layers == (
        "language.0",
        "language.1",
        "region.0",
        "cross.0",
        "cross.1",
        "cross.2",
    )


def test_without_cross_layers_the_whole_region_stream_is_dead() -> None:
    components = describe(make(l_layers=1, r_layers=1, x_layers=0)).components
    assert all(
        live == component.layer.startswith("language")
        for component, live in zip(components, components.live, strict=True)
    )


@pytest.mark.parametrize("model_class", [LxmertModel, LxmertForQuestionAnswering])
def test_every_weight_of_the_layers_belongs_to_a_leaf(model_class: type[nn.Module]) -> None:
    model = make(model_class, l_layers=2, r_layers=1, x_layers=2)
    anatomy = describe(model)
    stacks = (".layer.", ".r_layers.", ".x_layers.")
    in_layers = [name for name, _ in model.named_parameters() if any(stack in f".{name}" for stack in stacks)]
    assert sorted(anatomy.frozen_weights(model)) == sorted(in_layers)
    assert len({leaf.path for leaf in anatomy.leaves}) == len(anatomy.leaves)


def test_leaves_have_a_column_per_head_or_one(base_size: Anatomy) -> None:
    for leaf in base_size.leaves:
        heads = base_size.components.components[leaf.start : leaf.stop]
        per_head = leaf.path.endswith(("query", "key", "value"))
        assert [component.head for component in heads] == (list(range(12)) if per_head else [None])


def test_a_model_without_a_known_backbone_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"Linear holds no backbone that can be adapted.*LxmertModel.*one line in FAMILIES"
    ):
        describe(nn.Linear(2, 2))
