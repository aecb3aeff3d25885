"""From a text and the regions of its picture to one row of embedded tokens: VL-BERT's input layer.

A row holds the real text tokens, then the real regions, then one [END] token, packed to the left. Each token is
the sum of what it says (a word, or one learned vector for all regions), what it shows (the whole picture for
words, the region for regions), its position and its type. Shape suffixes: B samples, L text tokens, R regions,
T = L + R + 1 tokens of a row, F region features, W waves, E hidden size.
"""

import torch
from torch import Tensor, nn

from adaptive_ft.models.vlbert.configuration import VLBertConfig

REGION_TYPE = 2  # of regions and [END]; 0 and 1 are the two segments of the text
LONGEST_WAVE = 1000.0


def coordinate_waves(visual_pos_BR4: Tensor, waves: int) -> Tensor:
    """Sines and cosines of box centres and sizes: [B, R, 8 W] in float32.

    For each of v = 100 (cx, cy, w, h), as shares of the picture, in this order: sin(v / 1000^(j/W)) for j = 0..W-1,
    then the W cosines.
    """
    low, high = visual_pos_BR4.float().split(2, dim=-1)
    values_BR4 = 100 * torch.cat([(low + high) / 2, high - low], dim=-1)
    exponents_W = torch.arange(waves, device=values_BR4.device, dtype=torch.float32) / waves
    angles_BR4W = values_BR4.unsqueeze(-1) / LONGEST_WAVE**exponents_W
    return torch.cat([angles_BR4W.sin(), angles_BR4W.cos()], dim=-1).flatten(2)


class RegionProjection(nn.Module):
    """r = relu(Linear(dropout([coordinates ; features]))) for real regions, 0 for padding."""

    def __init__(self, config: VLBertConfig) -> None:
        super().__init__()
        self.waves = config.coordinate_waves
        self.dropout = nn.Dropout(config.region_dropout_prob)
        inputs = 2 * config.coordinate_waves * config.visual_pos_dim + config.visual_feat_dim
        self.dense = nn.Linear(inputs, config.visual_size or config.hidden_size)

    def forward(self, visual_feats_BRF: Tensor, visual_pos_BR4: Tensor, real_BR: Tensor) -> Tensor:
        """Projected regions [B, R, visual_size], in the dtype of the weights, whatever that of the features."""
        dtype = self.dense.weight.dtype
        waves_BRW = coordinate_waves(visual_pos_BR4, self.waves).to(dtype)
        regions = self.dense(self.dropout(torch.cat([waves_BRW, visual_feats_BRF.to(dtype)], dim=-1))).relu()
        return regions.masked_fill(~real_BR.unsqueeze(-1), 0.0)


class VisualLayerNorm(nn.LayerNorm):
    """A LayerNorm whose weight starts at `visual_scale_init`."""


class VisualScale(nn.Module):
    """A region as a token shows it: to hidden_size where it has another width, then LayerNorm or one factor."""

    def __init__(self, config: VLBertConfig) -> None:
        super().__init__()
        width = config.visual_size or config.hidden_size
        self.dense = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None
        self.LayerNorm = VisualLayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.visual_ln else None
        if self.LayerNorm is None:
            # Of shape [1]: DeepSpeed cannot broadcast a parameter without an axis.
            self.scale = nn.Parameter(torch.full((1,), float(config.visual_scale_init)))

    def forward(self, regions: Tensor) -> Tensor:
        """[..., visual_size] -> [..., E]."""
        if self.dense is not None:
            regions = self.dense(regions)
        return regions * self.scale if self.LayerNorm is None else self.LayerNorm(regions)


def pack_order(real_BL: Tensor, real_BR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the tokens [text ; regions ; END] of each sample go: positions, order and mask, all [B, T].

    positions (of the unpacked tokens): text 0..t-1, every region t, [END] t+1, t the number of real text tokens.
    order: the unpacked token of each packed place. mask: whether a packed place holds a real token; these are
    the first ones.
    """
    real_B1 = real_BL.new_ones(len(real_BL), 1)
    real_BT = torch.cat([real_BL, real_BR, real_B1], dim=1)
    text_end_B1 = real_BL.sum(dim=1, keepdim=True)
    positions_BT = torch.cat(
        [(real_BL.cumsum(dim=1) - 1).clamp(min=0), text_end_B1.expand(real_BR.shape), text_end_B1 + 1], dim=1
    )
    order_BT = torch.argsort((~real_BT).to(torch.uint8), dim=1, stable=True)
    return positions_BT, order_BT, real_BT.gather(1, order_BT)


class VLBertEmbeddings(nn.Module):
    """The packed and embedded row [B, T, E] of a text and its regions, and which of its places are real.

    The original cuts rows at the longest of the batch; here T = L + R + 1 always, so that shapes do not depend
    on values. Places behind [END] are masked and change nothing.
    """

    def __init__(self, config: VLBertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size)
        self.end_embedding = nn.Embedding(1, size)
        self.region_embedding = nn.Embedding(1, size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.region_projection = RegionProjection(config)
        self.visual_text = VisualScale(config)
        self.visual_region = VisualScale(config)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids_BL: Tensor,
        token_type_ids_BL: Tensor,
        attention_mask_BL: Tensor,
        visual_feats_BRF: Tensor,
        visual_pos_BR4: Tensor,
        visual_attention_mask_BR: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Row [B, T, E], its mask [B, T] of booleans, and the unpacked token of each place [B, T]."""
        real_BL, real_BR = attention_mask_BL.bool(), visual_attention_mask_BR.bool()
        regions_BRE = self.region_projection(visual_feats_BRF, visual_pos_BR4, real_BR)
        text_BLE = self.word_embeddings(input_ids_BL) + self.visual_text(regions_BRE[:, :1])
        # Looked up, not read as .weight: engines that split the weights gather a module's when it is called.
        only_B1 = torch.zeros_like(input_ids_BL[:, :1])
        objects_BRE = self.region_embedding(only_B1) + self.visual_region(regions_BRE)
        end_B1E = self.end_embedding(only_B1)
        positions_BT, order_BT, mask_BT = pack_order(real_BL, real_BR)
        types_BT = nn.functional.pad(token_type_ids_BL, (0, real_BR.shape[1] + 1), value=REGION_TYPE)
        tokens_BTE = torch.cat([text_BLE, objects_BRE, end_B1E], dim=1)
        tokens_BTE = tokens_BTE + self.position_embeddings(positions_BT) + self.token_type_embeddings(types_BT)
        packed_BTE = tokens_BTE.gather(1, order_BT.unsqueeze(-1).expand_as(tokens_BTE))
        return self.dropout(self.LayerNorm(packed_BTE)), mask_BT, order_BT
