"""A small VL-BERT whose every part matters, and a batch with padding on both sides."""

import pytest
import torch
from torch import Tensor

from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering

MASK_ID = 3


@pytest.fixture
def config() -> VLBertConfig:
    return VLBertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        visual_feat_dim=16,
        coordinate_waves=4,
        num_answers=7,
        mask_token_id=MASK_ID,
    )


@pytest.fixture
def model(config: VLBertConfig) -> VLBertForQuestionAnswering:
    """In evaluation mode, with weights so large that the picture and every component change the answer."""
    model = VLBertForQuestionAnswering(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three samples: whole, padded at the right, and with holes in both masks."""
    texts = [
        [1, 5, 6, 7, 8, 2, MASK_ID, 2],
        [1, 9, 2, MASK_ID, 2, 0, 0, 0],
        [0, 1, 10, 0, 11, 2, MASK_ID, 2],
    ]
    types = [[0] * 6 + [1] * 2, [0] * 3 + [1] * 2 + [0] * 3, [0] * 6 + [1] * 2]
    regions = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]]
    low = torch.rand(3, 5, 2) / 2
    return {
        "input_ids": torch.tensor(texts),
        "attention_mask": (torch.tensor(texts) != 0).long(),
        "token_type_ids": torch.tensor(types),
        "visual_feats": torch.randn(3, 5, 16),
        "visual_pos": torch.cat([low, low + torch.rand(3, 5, 2) / 2], dim=-1),
        "visual_attention_mask": torch.tensor(regions),
    }
