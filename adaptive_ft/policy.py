"""Policy networks: from an image-text pair to two logits per decision, index 1 = tuned.

`light` pools small embeddings of the words and the regions: below 1 % of the backbone's FLOPs. `mirror` is
a shrunk copy of the backbone, as in the original. Both own all their weights: none of the base model's
parameters is used in their forward, so that every rank may gather the base's parameters where the base
runs.

Shape suffixes: B batch, T tokens, R regions, F feature size, E embedding size, D decisions; x2 = (frozen,
tuned).
"""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertModel

from adaptive_ft.errors import UserError
from adaptive_ft.models import use_sdpa

# Spread of the logits at the start: gates begin near the initial probability, yet the layers below the last
# one receive gradients from the first step on.
INITIAL_LOGIT_SPREAD = 0.1
BACKBONE_INPUTS = (
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "token_type_ids",
    "visual_feats",
    "visual_pos",
    "visual_attention_mask",
)


@dataclass
class PolicyConfig:
    """Which policy network, and its sizes."""

    kind: Literal["light", "mirror"] = "light"
    """light: pooled embeddings, below 1 % of the base's cost. mirror: a shrunk copy of the base, as the original."""
    initial_tuned_probability: float = 0.5
    """Where all gates start, between 0 and 1."""
    embedding_size: int = 128
    """light: width of the word and region embeddings."""
    hidden_size: int = 256
    """light: width of the hidden layer."""
    language_layers: int = 2
    """mirror: number of language layers."""
    region_layers: int = 1
    """mirror: number of region layers."""
    cross_layers: int = 1
    """mirror: number of cross layers."""
    init_from_base: bool = True
    """mirror: start with the base's embeddings and first layers; otherwise with random weights."""

    def __post_init__(self) -> None:
        if self.kind not in POLICIES:
            raise UserError(f"unknown policy kind '{self.kind}'; choose one of {', '.join(POLICIES)}.")
        if not 0 < self.initial_tuned_probability < 1:
            raise UserError(
                f"initial_tuned_probability is {self.initial_tuned_probability}; it lies above 0 and below 1."
            )


class LightPolicy(nn.Module):
    """Mean of the words' embeddings, mean and maximum of the regions', then a two-layer network."""

    def __init__(self, config: PolicyConfig, backbone: LxmertModel, num_decisions: int) -> None:
        super().__init__()
        size = config.embedding_size
        base = backbone.config
        self.words = nn.Embedding(base.vocab_size, size)
        self.regions = nn.Linear(base.visual_feat_dim + base.visual_pos_dim, size)
        last = nn.Linear(config.hidden_size, 2 * num_decisions)
        self.head = nn.Sequential(
            nn.LayerNorm(3 * size),
            nn.Linear(3 * size, config.hidden_size),
            nn.GELU(),
            nn.LayerNorm(config.hidden_size),
            last,
        )
        start_near(last, config.initial_tuned_probability)

    def forward(
        self,
        *,
        input_ids: Tensor,
        visual_feats: Tensor,
        visual_pos: Tensor,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        **_: Tensor,
    ) -> Tensor:
        """Logits [B, D, 2] of inputs [B, T] and [B, R, F]; a mask is 1 where there is a word or a region."""
        words_BTE = self.words(input_ids)
        regions_BRE = self.regions(torch.cat([visual_feats, visual_pos.to(visual_feats.dtype)], dim=-1))
        mask_BR1 = _mask(visual_attention_mask, regions_BRE)
        pooled = [
            _mean(words_BTE, _mask(attention_mask, words_BTE)),
            _mean(regions_BRE, mask_BR1),
            _maximum(regions_BRE, mask_BR1),
        ]
        return self.head(torch.cat(pooled, dim=-1)).unflatten(-1, (-1, 2))


class MirrorPolicy(nn.Module):
    """A shrunk LXMERT of the same width with a head on its pooled output.

    Head: Linear(d, 2d), GELU, LayerNorm, Linear(2d, 2D), d the width, D the number of decisions.
    Source: docs/method.md 3.
    """

    def __init__(self, config: PolicyConfig, backbone: LxmertModel, num_decisions: int) -> None:
        super().__init__()
        self.backbone = LxmertModel(_shrunk(backbone.config, config))
        use_sdpa(self.backbone)
        if config.init_from_base:
            _copy_shared(backbone, self.backbone)
        width = backbone.config.hidden_size
        last = nn.Linear(2 * width, 2 * num_decisions)
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width), last)
        start_near(last, config.initial_tuned_probability)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits [B, D, 2] of the backbone's own inputs."""
        pooled_BE = self.backbone(**inputs, return_dict=True).pooled_output
        return self.head(pooled_BE).unflatten(-1, (-1, 2))


POLICIES: dict[str, type[LightPolicy] | type[MirrorPolicy]] = {"light": LightPolicy, "mirror": MirrorPolicy}


def build_policy(config: PolicyConfig, backbone: LxmertModel, num_decisions: int) -> nn.Module:
    """The policy network that `config` asks for, on the device and in the dtype of the backbone.

    Its forward takes those of `BACKBONE_INPUTS` that are given and returns logits [B, D, 2].
    """
    reference = next(backbone.parameters())
    with torch.device(reference.device):
        policy = POLICIES[config.kind](config, backbone, num_decisions)
    return policy.to(reference.dtype)


def start_near(last: nn.Linear, tuned_probability: float) -> None:
    """Initialise the last layer so that every gate starts near `tuned_probability`.

    With logits (f, t), P(tuned) = sigmoid(t - f); the bias sets t - f = ln(p / (1 - p)), small weights
    spread it a little.
    """
    half_log_odds = 0.5 * math.log(tuned_probability / (1 - tuned_probability))
    nn.init.normal_(last.weight, std=INITIAL_LOGIT_SPREAD / math.sqrt(last.in_features))
    with torch.no_grad():
        last.bias.copy_(last.bias.new_tensor([-half_log_odds, half_log_odds]).repeat(last.out_features // 2))


def _shrunk(base: LxmertConfig, config: PolicyConfig) -> LxmertConfig:
    """The base's configuration with fewer layers."""
    shrunk = copy.deepcopy(base)
    shrunk.l_layers, shrunk.r_layers, shrunk.x_layers = (
        config.language_layers,
        config.region_layers,
        config.cross_layers,
    )
    return shrunk


def _copy_shared(base: nn.Module, mirror: nn.Module) -> None:
    """Copy what both have under the same name: embeddings, the first layers of each stack, pooler.

    Layers that the base does not have keep their random start.
    """
    wanted = mirror.state_dict()
    mirror.load_state_dict({name: value for name, value in base.state_dict().items() if name in wanted}, strict=False)


def _mask(mask_BS: Tensor | None, values_BSE: Tensor) -> Tensor:
    """The mask as [B, S, 1] of booleans; without a mask everything counts."""
    if mask_BS is None:
        return torch.ones_like(values_BSE[..., :1], dtype=torch.bool)
    return mask_BS.bool().unsqueeze(-1)


def _mean(values_BSE: Tensor, mask_BS1: Tensor) -> Tensor:
    """Mean over the unmasked positions; 0 where there are none."""
    return (values_BSE * mask_BS1).sum(dim=1) / mask_BS1.sum(dim=1).clamp(min=1)


def _maximum(values_BSE: Tensor, mask_BS1: Tensor) -> Tensor:
    """Maximum over the unmasked positions; 0 where there are none."""
    lowest = torch.finfo(values_BSE.dtype).min
    maximum_BE = values_BSE.masked_fill(~mask_BS1, lowest).amax(dim=1)
    return torch.where(mask_BS1.any(dim=1), maximum_BE, 0.0)
