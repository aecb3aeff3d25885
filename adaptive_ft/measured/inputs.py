"""What `adaptive-ft invariance` varies: the pixels of a picture, or the features of its regions under a fixed question;
and how a model is fed with it.

Shapes: N examples, B of a batch, R regions, D features of a region, L tokens, T = L + R + 1 places of VL-BERT's row;
3 = red green blue, H and W rows and columns of pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor

from adaptive_ft.analysis.representations import tensor_bytes
from adaptive_ft.data.reading.bad_samples import StopAtBad
from adaptive_ft.data.reading.batch import PictureBatch, RawBatch
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.shard_reader import open_reader
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.examining import spread
from adaptive_ft.tasks.classification import WHITE_LEVEL, Normalisation
from adaptive_ft.tasks.vqa import VqaTask

VARIED = "visual_feats"
"""The argument of a forward that holds the features of regions."""
Arguments = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""(inputs [B, ...], their numbers int64 [B]) -> arguments of the base model's forward."""


@dataclass(frozen=True)
class Feeding:
    """How a model is fed: the arguments made of what is varied, and the places that hold no padding.

    `shape`: of one input. `real_by_stream`: bool [N, places] by the name of a stream (`Block.streams`); one without
    padding is not in it. `fingerprint` tells apart what is fixed.
    """

    shape: tuple[int, ...]
    arguments: Arguments
    fingerprint: str
    real_by_stream: Mapping[str, Tensor] = field(default_factory=dict)


def read_examples(shards: ShardSet, count: int) -> Any:
    """`count` examples spread evenly over the shards, or all where there are fewer, as one raw batch."""
    own = shards.for_stream()
    reader = open_reader(own, StopAtBad(), BatchMemory(1))
    try:
        return reader.read_batch(spread(count, shards.num_examples))
    finally:
        reader.close()
        own.files.close()


def varied_inputs(examples: PictureBatch | RawBatch) -> Tensor:
    """What is varied, in float32: pixels in [0, 1] [N, 3, H, W], or features [N, R, D]."""
    if isinstance(examples, PictureBatch):
        return examples.pixels_B3HW.float() / WHITE_LEVEL
    return examples.features_BND.float()


def fed_pictures(normalise: Normalisation, side: int) -> Feeding:
    """Pixels in [0, 1], normalised as the model was pretrained."""

    def arguments(pixels_B3HW: Tensor, _: Tensor) -> dict[str, Tensor]:
        return {"pixel_values": normalise(WHITE_LEVEL * pixels_B3HW)}

    return Feeding((3, side, side), arguments, str(normalise))


def fed_questions(task: VqaTask, examples: RawBatch, device: torch.device) -> Feeding:
    """Features of regions, beside the questions, boxes and masks of the examples they stand for.

    Regions that are padding hold zeros whatever is sought there.
    """
    inputs = task.collate(examples).to(device).inputs
    fixed = {name: tensor for name, tensor in inputs.items() if name != VARIED}
    mask_NR = examples.box_mask_BN.to(device)

    def arguments(features_BRD: Tensor, numbers_B: Tensor) -> dict[str, Tensor]:
        rows_B = numbers_B.to(device)
        mask_BR = mask_NR[rows_B]
        feats = task.visual_feats(features_BRD * mask_BR.unsqueeze(2), mask_BR)
        return {VARIED: feats, **{name: tensor[rows_B] for name, tensor in fixed.items()}}

    return Feeding(tuple(examples.features_BND.shape[1:]), arguments, _hash(fixed), _real_places(fixed, mask_NR))


def _real_places(fixed: Mapping[str, Tensor], mask_NR: Tensor) -> dict[str, Tensor]:
    """By stream: LXMERT's two, and the one of VL-BERT, whose rows are packed to the left and end in [END]."""
    words_NL = fixed["attention_mask"].bool()
    # Of VL-BERT's regions the first is the whole picture, which the mask of the boxes does not count.
    regions_NR = fixed.get("visual_attention_mask", mask_NR).bool()
    length_N1 = (words_NL.sum(1) + regions_NR.sum(1) + 1).unsqueeze(1)
    places_T = torch.arange(words_NL.shape[1] + regions_NR.shape[1] + 1, device=words_NL.device)
    return {"language": words_NL, "region": regions_NR, "hidden_states": places_T < length_N1}


def _hash(fixed: Mapping[str, Tensor]) -> str:
    found = xxhash.xxh3_128()
    for name, tensor in sorted(fixed.items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor_bytes(tensor))
    return found.hexdigest()
