"""Pooled embeddings: what is found in a backbone, and sums written out by hand."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LxmertConfig, LxmertModel

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
