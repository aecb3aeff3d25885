"""Where the layers of a model are read that is compared with others: its blocks, and what comes after the last.

Shapes: N examples, B of a batch, P places of a block, E hidden size, X features of a layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_ft.analysis.representations import Read, Tap, class_token
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.errors import UserError
from adaptive_ft.measured.inputs import Feeding
from adaptive_ft.models import Anatomy
from adaptive_ft.models.anatomy import Block

NORM, POOLED = "norm", "pooled"
"""What is read after the last block: the class token behind the final norm, or what the answer is read from."""
FINAL_NORM = "layernorm"
_MEAN_OF_PATCHES = ("clip",)
"""Model types whose classifier reads the mean of the patches, and no norm: the norm behind their class token belongs to
the pretraining, and no gradient of a fine-tuning comes there."""
_SEES_NOTHING = ("language",)
"""The streams of blocks that nothing of a picture reaches."""


def taps(anatomy: Anatomy, base: nn.Module, content: str) -> dict[str, Tap]:
    """The blocks that see the picture, and what comes after the last; raises UserError where that is not known."""
    blocks = {
        layer: Tap(base.get_submodule(block.path), _all_places(len(streams_read(anatomy, block))))
        for layer, block in zip(anatomy.components.layers, anatomy.blocks, strict=True)
        if tuple(block.streams.values()) != _SEES_NOTHING
    }
    return blocks | _behind(anatomy, base, content)


def streams_read(anatomy: Anatomy, block: Block) -> tuple[str, ...]:
    """The streams of a block's outputs that anything behind it reads, in their order.

    Behind LXMERT's last cross layer only the language stream goes on: its other output reaches no answer, so that no
    fine-tuning ever asked anything of it.
    """
    names = tuple(block.streams.values())
    return names[:1] if block is anatomy.blocks[-1] else names


def real_places(anatomy: Anatomy, feeding: Feeding) -> dict[str, Tensor]:
    """bool [N, P] of every layer: the places of the streams that are read that hold a word or a region; nothing where
    an input has no padding.
    """
    if not feeding.real_by_stream:
        return {}
    return {
        layer: torch.cat([feeding.real_by_stream[stream] for stream in streams_read(anatomy, block)], dim=1)
        for layer, block in zip(anatomy.components.layers, anatomy.blocks, strict=True)
    }


def without_padding(read: Read, real_by_layer: Mapping[str, Tensor]) -> Read:
    """The same with zeros at places that hold no word and no region."""

    def masked(inputs_B: Tensor, numbers_B: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        found = dict(read(inputs_B, numbers_B, layers))
        for layer in real_by_layer.keys() & found.keys():
            real_N = real_by_layer[layer]
            found[layer] = found[layer] * real_N[numbers_B.to(real_N.device)].unsqueeze(2)
        return found

    return masked


def _behind(anatomy: Anatomy, base: nn.Module, content: str) -> dict[str, Tap]:
    """What the head reads, by its name."""
    backbone: Any = anatomy.backbone(base)
    if content != LABELLED_PICTURES:
        return {POOLED: Tap(backbone, _pooled)}
    whole: Any = base
    if whole.config.model_type in _MEAN_OF_PATCHES:
        return {POOLED: Tap(backbone, _mean_of_patches)}
    inside = {id(module) for block in anatomy.blocks for module in base.get_submodule(block.path).modules()}
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] == FINAL_NORM and id(module) not in inside:
            return {NORM: Tap(module, class_token)}
    raise UserError(f"A {type(backbone).__name__} has no final norm to read: only models of pictures are compared.")


def _all_places(streams: int) -> Any:
    """Of a block with several outputs all places of the first `streams`, one behind the other: [B, P, E]."""
    return None if streams == 1 else lambda outputs: torch.cat(outputs[:streams], dim=1)


def _pooled(output: Any) -> Tensor:
    """[B, E] behind the last block: LXMERT's and VL-BERT's outputs call it by two names."""
    found: Tensor = output["pooled_output" if "pooled_output" in output else "pooler_output"]
    return found


def _mean_of_patches(output: Any) -> Tensor:
    """[B, E], the mean of the last hidden state [B, 1 + P, E] without the class token."""
    found: Tensor = output.last_hidden_state[:, 1:].mean(dim=1)
    return found
