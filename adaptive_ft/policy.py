"""Policy networks: from a sample to two logits per decision, index 1 = tuned.

`light` pools small embeddings of the inputs (words, regions, patches): below 1 % of the backbone's FLOPs.
`mirror` is a shrunk copy of the backbone, as in the original. `learned` and `fixed` (independent_policy.py) do not
look at the input. All own their weights: none of the base model's parameters is used in their forward, so that every
rank may gather the base's parameters where the base runs.

Shape suffixes: B batch, E embedding size, D decisions; x2 = (frozen, tuned).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adaptive_ft.errors import UserError, nearest
from adaptive_ft.independent_policy import FixedPolicy, LearnedPolicy, logits_of
from adaptive_ft.models import use_sdpa
from adaptive_ft.pooled_inputs import input_names, pooled_inputs

# Spread of the logits at the start: gates begin near the initial probability, yet the layers below the last
# one receive gradients from the first step on.
INITIAL_LOGIT_SPREAD = 0.1
# Size in a backbone's config -> the option of PolicyConfig that replaces it in a mirror.
TWO_STREAMS = {"l_layers": "language_layers", "r_layers": "region_layers", "x_layers": "cross_layers"}
ONE_STREAM = {"num_hidden_layers": "layers", "intermediate_size": "intermediate_size"}
# Options of PolicyConfig that count something: whatever the kind, 1 is the least.
SIZES = (
    "embedding_size",
    "hidden_size",
    "language_layers",
    "region_layers",
    "cross_layers",
    "layers",
    "intermediate_size",
)
# What the models call the summary of a sample.
POOLED = ("pooled_output", "pooler_output")


@dataclass
class PolicyConfig:
    """Which policy network, and its sizes."""

    kind: Literal["light", "mirror", "learned", "fixed"] = "light"
    """light: pooled embeddings, below 1 % of the base's cost. mirror: a shrunk copy of the base, as the original.
    learned: one trained pair of logits per decision, the same for all inputs. fixed: the same, never trained (random
    decisions; in evaluation too with --adapt.eval_decisions sample)."""
    initial_tuned_probability: float = 0.5
    """Where all gates start (and with fixed stay), between 0 and 1."""
    embedding_size: int = 128
    """light: width of the embeddings of words, regions and patches."""
    hidden_size: int = 256
    """light: width of the hidden layer."""
    language_layers: int = 2
    """mirror of LXMERT: number of language layers."""
    region_layers: int = 1
    """mirror of LXMERT: number of region layers."""
    cross_layers: int = 1
    """mirror of LXMERT: number of cross layers."""
    layers: int = 2
    """mirror of any other model: number of layers."""
    intermediate_size: int = 512
    """mirror of any other model: width inside the FFNs, where it is an option of the model, and never above its own."""
    init_from_base: bool = True
    """mirror: start with the base's embeddings and first layers; otherwise with random weights."""

    def __post_init__(self) -> None:
        if self.kind not in POLICIES:
            raise UserError(
                f"unknown policy kind '{self.kind}'.{nearest(str(self.kind), POLICIES)} "
                f"Choose one of {', '.join(POLICIES)}."
            )
        if not 0 < self.initial_tuned_probability < 1:
            raise UserError(
                f"initial_tuned_probability is {self.initial_tuned_probability}; it lies above 0 and below 1."
            )
        for name in SIZES:
            size = getattr(self, name)
            if not (is_whole(size) and size >= 1):
                raise UserError(f"policy.{name} is {size!r}; it must be a whole number and at least 1.")


def is_whole(value: object) -> bool:
    """Whether this is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


class LightPolicy(nn.Module):
    """Pooled embeddings of every kind of input that the backbone takes, then a two-layer network."""

    def __init__(self, config: PolicyConfig, backbone: nn.Module, num_decisions: int) -> None:
        super().__init__()
        self.input_names = input_names(backbone)
        self.inputs = pooled_inputs(backbone, config.embedding_size)
        pooled_size: int = sum(pooled.pooled_size for pooled in self.inputs)  # type: ignore[misc]
        last = nn.Linear(config.hidden_size, 2 * num_decisions)
        self.head = nn.Sequential(
            nn.LayerNorm(pooled_size),
            nn.Linear(pooled_size, config.hidden_size),
            nn.GELU(),
            nn.LayerNorm(config.hidden_size),
            last,
        )
        start_near(last, config.initial_tuned_probability)

    def forward(self, **inputs: Any) -> Tensor:
        """Logits [B, D, 2] of the backbone's own inputs."""
        pooled = [pool(**inputs) for pool in self.inputs]
        return self.head(torch.cat(pooled, dim=-1)).unflatten(-1, (-1, 2))


class MirrorPolicy(nn.Module):
    """A shrunk backbone of the same class and width with a head on its pooled output.

    Head: Linear(d, h), GELU, LayerNorm, Linear(h, 2D), d the width of the pooled output, D the number of
    decisions; h is 2d for two streams (LXMERT) and d for one, as in the original. Source: docs/method.md 3.

    Unlike the original's: no dropout in front of VL-BERT's last Linear, small weights in the last Linear (`start_near`)
    where the original's are xavier-uniform, and a mirror that reads a tanh pooler (BERT, ViT) gets a random one where
    the base was built without it.
    """

    def __init__(self, config: PolicyConfig, backbone: nn.Module, num_decisions: int) -> None:
        super().__init__()
        self.input_names = input_names(backbone)
        shrunk = _shrunk(backbone.config, config)
        self.backbone = type(backbone)(shrunk)
        use_sdpa(self.backbone)
        if config.init_from_base:
            _copy_shared(backbone, self.backbone)
        width = getattr(shrunk, "pooler_output_size", None) or shrunk.hidden_size
        inner = 2 * width if _has_two_streams(shrunk) else width
        last = nn.Linear(inner, 2 * num_decisions)
        self.head = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner), last)
        start_near(last, config.initial_tuned_probability)

    def forward(self, **inputs: Any) -> Tensor:
        """Logits [B, D, 2] of the backbone's own inputs."""
        output = self.backbone(**inputs, return_dict=True)
        pooled_BE = next(output[name] for name in POOLED if name in output)
        return self.head(pooled_BE).unflatten(-1, (-1, 2))


Policy = LightPolicy | MirrorPolicy | LearnedPolicy | FixedPolicy
POLICIES: dict[str, Callable[[PolicyConfig, nn.Module, int], Policy]] = {
    "light": LightPolicy,
    "mirror": MirrorPolicy,
    "learned": lambda config, backbone, num_decisions: LearnedPolicy(
        input_names(backbone), num_decisions, config.initial_tuned_probability
    ),
    "fixed": lambda config, backbone, num_decisions: FixedPolicy(
        input_names(backbone), num_decisions, config.initial_tuned_probability
    ),
}


def build_policy(config: PolicyConfig, backbone: nn.Module, num_decisions: int) -> Policy:
    """The policy network that `config` asks for, on the device and in the dtype of the backbone.

    Its forward takes those of its `input_names` that are given and returns logits [B, D, 2].
    """
    reference = next(backbone.parameters())
    with torch.device(reference.device):
        policy = POLICIES[config.kind](config, backbone, num_decisions)
    return policy.to(reference.dtype)


def start_near(last: nn.Linear, tuned_probability: float) -> None:
    """Initialise the last layer so that every gate starts near `tuned_probability`.

    The bias holds `logits_of` that probability, small weights spread them a little.
    """
    nn.init.normal_(last.weight, std=INITIAL_LOGIT_SPREAD / math.sqrt(last.in_features))
    with torch.no_grad():
        last.bias.copy_(logits_of(tuned_probability).repeat(last.out_features // 2))


def _has_two_streams(base: Any) -> bool:
    """Whether the configuration counts language, region and cross layers, as LXMERT's."""
    return all(hasattr(base, size) for size in TWO_STREAMS)


def _shrunk(base: Any, config: PolicyConfig) -> Any:
    """The base's configuration with the mirror's sizes, where it has them."""
    shrunk = copy.deepcopy(base)
    if _has_two_streams(base):
        for size, option in TWO_STREAMS.items():
            setattr(shrunk, size, getattr(config, option))
        return shrunk
    for size, option in ONE_STREAM.items():
        if hasattr(base, size):
            setattr(shrunk, size, min(getattr(base, size), getattr(config, option)))
    return shrunk


def _copy_shared(base: nn.Module, mirror: nn.Module) -> None:
    """Copy what both have under the same name and in the same shape: embeddings, the first layers, pooler.

    Layers that the base does not have, and FFNs of another width, keep their random start.
    """
    wanted = mirror.state_dict()
    shared = {
        name: value for name, value in base.state_dict().items() if name in wanted and value.shape == wanted[name].shape
    }
    mirror.load_state_dict(shared, strict=False)
