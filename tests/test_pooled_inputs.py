"""Pooled embeddings: what is found in a backbone, and sums written out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertModel

from adaptive_ft.policy import PolicyConfig, build_policy
from adaptive_ft.pooled_inputs import PooledPatches, PooledRegions, PooledWords, input_names, pooled_inputs
from tests.models.tiny_families import TINY


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bert", [PooledWords]),
        ("roberta", [PooledWords]),
        ("visual_bert", [PooledWords, PooledRegions]),
        ("vl_bert", [PooledWords, PooledRegions]),
        ("vit", [PooledPatches]),
        ("dinov2", [PooledPatches]),
        ("clip_vision", [PooledPatches]),
    ],
)
def test_kinds_of_input_are_found(name: str, kinds: list[type[nn.Module]]) -> None:
    pooled: Any = pooled_inputs(TINY[name].build(), 4)
    assert [type(module) for module in pooled] == kinds
    inputs = TINY[name].inputs(3)
    assert [module(**inputs).shape for module in pooled] == [(3, module.pooled_size) for module in pooled]


def test_regions_of_lxmert_are_features_and_boxes() -> None:
    with torch.device("meta"):
        pooled: Any = pooled_inputs(LxmertModel(LxmertConfig(l_layers=1, r_layers=1, x_layers=1)), 4)
    assert pooled[1].names == ("visual_feats", "visual_pos")
    assert pooled[1].regions.in_features == 2048 + 4


def test_words_are_the_mean_of_those_that_count() -> None:
    pooled = PooledWords(5, 2)
    found = pooled(input_ids=torch.tensor([[1, 3, 4]]), attention_mask=torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(found[0], (pooled.words.weight[1] + pooled.words.weight[3]) / 2)


def test_regions_are_mean_and_maximum_of_those_that_count() -> None:
    pooled = PooledRegions(("visual_embeds",), 2, 2)
    with torch.no_grad():
        pooled.regions.weight.copy_(torch.eye(2))
        pooled.regions.bias.zero_()
    regions = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [9.0, 9.0]]])
    found = pooled(visual_embeds=regions, visual_attention_mask=torch.tensor([[1, 1, 0]]))
    assert found.tolist() == [[2.0, -3.0, 3.0, -2.0]]


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("bert", {"input_ids": None, "inputs_embeds": torch.zeros(3, 5, 8)}, "words of every sample; input_ids is mis"),
        ("visual_bert", {"visual_embeds": None}, "regions of every sample; visual_embeds is missing"),
        ("vl_bert", {"visual_feats": None, "visual_pos": None}, "visual_feats and visual_pos is missing"),
        ("vit", {"pixel_values": None}, "picture of every sample; pixel_values is missing"),
        ("bert", {"attention_mask": torch.ones(3, 1, 5, 5)}, r"attention_mask as \[3, 5\], .* shape \[3, 1, 5, 5\]"),
        ("visual_bert", {"visual_attention_mask": torch.ones(3, 1, 1, 3)}, r"visual_attention_mask as \[3, 3\]"),
    ],
)
def test_what_cannot_be_pooled_is_named(name: str, changes: dict[str, Tensor | None], told: str) -> None:
    policy: Any = build_policy(PolicyConfig(), TINY[name].build(), 2)
    with pytest.raises(ValueError, match=told):
        policy(**{**TINY[name].inputs(3), **changes})


@pytest.mark.parametrize("name", ["vl_bert", "visual_bert"])
def test_float32_features_go_into_bf16_weights(name: str) -> None:
    """As the data gives them; VL-BERT's boxes stay float32 in every run."""
    inputs = TINY[name].inputs(3)
    policy: Any = build_policy(PolicyConfig(), TINY[name].build().bfloat16(), 2)
    logits = policy(**inputs)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), policy.float()(**inputs), rtol=0.05, atol=0.02)


def test_patches_are_read_each_by_itself() -> None:
    pooled = PooledPatches(1, 2, 1)
    with torch.no_grad():
        pooled.patches.weight.fill_(1.0)
        pooled.patches.bias.zero_()
    picture = torch.tensor([[[[1.0, 1, 2, 2], [1, 1, 2, 2]]]])
    assert pooled(pixel_values=picture).tolist() == [[6.0, 8.0]]


def test_words_about_the_output_are_no_inputs() -> None:
    names = input_names(TINY["visual_bert"].build())
    assert {"input_ids", "visual_embeds", "visual_attention_mask", "token_type_ids"} <= names
    assert not names & {"self", "kwargs", "return_dict", "output_attentions", "output_hidden_states"}
