"""Small embeddings of each kind of input, pooled over its positions: what the light policy sees of a sample.

Shape suffixes: B batch, S positions (words, regions or patches), F features, E embedding size.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_ft.errors import UserError

# What a backbone's forward is told about its output, and caches: nothing that describes a sample.
NO_INPUTS = {"self", "return_dict", "output_attentions", "output_hidden_states", "use_cache", "past_key_values"}


class PooledWords(nn.Module):
    """Mean of the words' embeddings."""

    def __init__(self, vocab_size: int, size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, size)
        self.pooled_size = size

    def forward(self, *, attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """[B, E] of word numbers [B, S], the input `input_ids`; the mask [B, S] is 1 where there is a word.

        Raises ValueError when the words are missing, and for a mask of another shape.
        """
        (input_ids,) = _given(inputs, ("input_ids",), "words")
        words_BSE = self.words(input_ids)
        return _mean(words_BSE, _mask("attention_mask", attention_mask, words_BSE))


class PooledRegions(nn.Module):
    """Mean and maximum of a projection of the regions; `names` are the inputs that describe one, side by side."""

    def __init__(self, names: tuple[str, ...], num_features: int, size: int) -> None:
        super().__init__()
        self.names = names
        self.regions = nn.Linear(num_features, size)
        self.pooled_size = 2 * size

    def forward(self, *, visual_attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """[B, 2E] of inputs [B, S, F]; the mask [B, S] is 1 where there is a region.

        Raises ValueError when the regions are missing, and for a mask of another shape.
        """
        parts = [part.to(self.regions.weight.dtype) for part in _given(inputs, self.names, "regions")]
        regions_BSE = self.regions(torch.cat(parts, dim=-1))
        mask_BS1 = _mask("visual_attention_mask", visual_attention_mask, regions_BSE)
        return torch.cat([_mean(regions_BSE, mask_BS1), _maximum(regions_BSE, mask_BS1)], dim=-1)


class PooledPatches(nn.Module):
    """Mean and maximum of an embedding of the picture's patches."""

    def __init__(self, num_channels: int, patch_size: int | tuple[int, int], size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(num_channels, size, kernel_size=patch_size, stride=patch_size)
        self.pooled_size = 2 * size

    def forward(self, **inputs: Any) -> Tensor:
        """[B, 2E] of `pixel_values` [B, channels, height, width], of any size that holds one patch.

        Raises ValueError when they are missing.
        """
        (pixel_values,) = _given(inputs, ("pixel_values",), "picture")
        patches_BES = self.patches(pixel_values.to(self.patches.weight.dtype)).flatten(2)
        return torch.cat([patches_BES.mean(dim=2), patches_BES.amax(dim=2)], dim=-1)


# The input that shows that a backbone sees this kind -> what embeds it, from the backbone's config and E.
KINDS: dict[str, Callable[[Any, int], PooledWords | PooledRegions | PooledPatches]] = {
    "input_ids": lambda base, size: PooledWords(base.vocab_size, size),
    "visual_feats": lambda base, size: PooledRegions(
        ("visual_feats", "visual_pos"), base.visual_feat_dim + base.visual_pos_dim, size
    ),
    "visual_embeds": lambda base, size: PooledRegions(("visual_embeds",), base.visual_embedding_dim, size),
    "pixel_values": lambda base, size: PooledPatches(base.num_channels, base.patch_size, size),
}


def input_names(backbone: nn.Module) -> frozenset[str]:
    """The inputs that describe a sample, as the backbone's forward names them."""
    parameters = inspect.signature(type(backbone).forward).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    return frozenset(named - NO_INPUTS)


def pooled_inputs(backbone: nn.Module, size: int) -> nn.ModuleList:
    """One module for each kind of input of `backbone`; all take its inputs by name.

    Raises UserError when it reads no kind that is known here.
    """
    names = input_names(backbone)
    found = nn.ModuleList(make(backbone.config, size) for name, make in KINDS.items() if name in names)
    if not found:
        raise UserError(
            f"the light policy cannot look at a {type(backbone).__name__}: it knows {', '.join(KINDS)}, the model "
            f"takes {', '.join(sorted(names))}. Choose policy 'mirror'."
        )
    return found


def _given(inputs: Mapping[str, Tensor | None], names: Iterable[str], what: str) -> list[Tensor]:
    """The inputs called `names`, which together are `what` a sample shows; none may be missing or None."""
    found = {name: inputs.get(name) for name in names}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(f"the light policy looks at the {what} of every sample; {' and '.join(missing)} is missing.")
    return [value for value in found.values() if value is not None]


def _mask(name: str, mask_BS: Tensor | None, values_BSE: Tensor) -> Tensor:
    """The mask as [B, S, 1] of booleans; without a mask everything counts."""
    if mask_BS is None:
        return torch.ones_like(values_BSE[..., :1], dtype=torch.bool)
    if mask_BS.shape != values_BSE.shape[:2]:
        raise ValueError(
            f"the light policy reads {name} as {list(values_BSE.shape[:2])}, 1 where there is a word or region; it has "
            f"shape {list(mask_BS.shape)}."
        )
    return mask_BS.bool().unsqueeze(-1)


def _mean(values_BSE: Tensor, mask_BS1: Tensor) -> Tensor:
    """Mean over the unmasked positions; 0 where there are none."""
    return (values_BSE * mask_BS1).sum(dim=1) / mask_BS1.sum(dim=1).clamp(min=1)


def _maximum(values_BSE: Tensor, mask_BS1: Tensor) -> Tensor:
    """Maximum over the unmasked positions; 0 where there are none."""
    lowest = torch.finfo(values_BSE.dtype).min
    maximum_BE = values_BSE.masked_fill(~mask_BS1, lowest).amax(dim=1)
    return torch.where(mask_BS1.any(dim=1), maximum_BE, 0.0)
