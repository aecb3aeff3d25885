"""Tiny random models of every single-stream family and of LXMERT, and inputs for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertModel,
    CamembertModel,
    CLIPVisionModel,
    DeiTModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    LxmertModel,
    RobertaModel,
    VisualBertModel,
    ViTModel,
    XLMRobertaModel,
)

from adaptive_ft.models.vlbert import VLBertModel

HEADS, WIDTH, LAYERS = 2, 8, 3
SIZES = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
FFN = {"intermediate_size": 20}
TEXT = {"vocab_size": 30, "max_position_embeddings": 16, "pad_token_id": 0}
PICTURE = {"image_size": 8, "patch_size": 4}
VL_BERT = {"visual_feat_dim": 6, "coordinate_waves": 2, "mask_token_id": 3, "region_dropout_prob": 0.0}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Family:
    """A backbone class, the sizes of its tiny form, and makers of its inputs for B samples."""

    backbone: type[nn.Module]
    sizes: dict[str, Any]
    inputs: Callable[[int], dict[str, Tensor]]

    def config(self) -> Any:
        return self.backbone.config_class(**SIZES, **self.sizes)

    def build(self) -> Any:
        """A backbone in evaluation mode whose weights are large enough that every component matters."""
        model = self.backbone(self.config()).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return model


def words(batch: int) -> dict[str, Tensor]:
    attention_mask = torch.ones(batch, 5, dtype=torch.long)
    attention_mask[1::2, 3:] = 0
    return {"input_ids": torch.randint(1, 30, (batch, 5)), "attention_mask": attention_mask}


def words_and_regions(batch: int) -> dict[str, Tensor]:
    visual_attention_mask = torch.ones(batch, 3)
    visual_attention_mask[::2, 2:] = 0
    regions = {"visual_embeds": torch.randn(batch, 3, 6), "visual_attention_mask": visual_attention_mask}
    return words(batch) | regions


def words_and_boxes(batch: int) -> dict[str, Tensor]:
    """VL-BERT's: the last real word is the [MASK] whose place it pools."""
    given, corners = words_and_regions(batch), torch.rand(batch, 3, 4).sort(dim=2).values
    given["input_ids"][::2, 4] = given["input_ids"][1::2, 2] = VL_BERT["mask_token_id"]
    return {"visual_feats": given.pop("visual_embeds"), "visual_pos": corners, **given}


def picture(batch: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, 8, 8)}


TINY = {
    "bert": Family(BertModel, {**FFN, **TEXT, **NO_DROPOUT}, words),
    "roberta": Family(RobertaModel, {**FFN, **TEXT, **NO_DROPOUT, "max_position_embeddings": 20}, words),
    "xlm_roberta": Family(XLMRobertaModel, {**FFN, **TEXT, **NO_DROPOUT, "max_position_embeddings": 20}, words),
    "camembert": Family(CamembertModel, {**FFN, **TEXT, **NO_DROPOUT, "max_position_embeddings": 20}, words),
    "visual_bert": Family(VisualBertModel, {**FFN, **TEXT, **NO_DROPOUT, "visual_embedding_dim": 6}, words_and_regions),
    "vl_bert": Family(VLBertModel, {**FFN, **TEXT, **NO_DROPOUT, **VL_BERT}, words_and_boxes),
    "vit": Family(ViTModel, {**FFN, **PICTURE}, picture),
    "deit": Family(DeiTModel, {**FFN, **PICTURE}, picture),
    "dinov2": Family(Dinov2Model, {**PICTURE, "mlp_ratio": 2}, picture),
    "dinov2_swiglu": Family(Dinov2Model, {**PICTURE, "mlp_ratio": 3, "use_swiglu_ffn": True}, picture),
    "dinov2_registers": Family(
        Dinov2WithRegistersModel, {**PICTURE, "mlp_ratio": 2, "num_register_tokens": 2}, picture
    ),
    "clip_vision": Family(CLIPVisionModel, {**FFN, **PICTURE}, picture),
}


class TwoStreams(Family):
    """LXMERT: its own names for the numbers of layers."""

    def config(self) -> Any:
        widths = {name: size for name, size in SIZES.items() if name != "num_hidden_layers"}
        return self.backbone.config_class(**widths, **self.sizes)


def words_beside_regions(batch: int) -> dict[str, Tensor]:
    return {**words(batch), "visual_feats": torch.randn(batch, 3, 6), "visual_pos": torch.rand(batch, 3, 4)}


LXMERT = TwoStreams(
    LxmertModel,
    {**FFN, **TEXT, **NO_DROPOUT, "l_layers": 2, "r_layers": 1, "x_layers": 2, "visual_feat_dim": 6},
    words_beside_regions,
)
