"""Labelled pictures from local shards: decoded and framed in the reader's thread, into the rows of a uint8 batch.

Shape suffixes: B rows, 3 = red green blue, H and W rows and columns of pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adaptive_ft.data.pixels import UNREADABLE, decode_rgb, framed
from adaptive_ft.data.reading.bad_samples import BadSamples, DamagedSample
from adaptive_ft.data.reading.batch import NO_QUESTION, PictureBatch
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.shard_bytes import ShardBytes
from adaptive_ft.data.reading.shard_set import PictureShardSet
from adaptive_ft.data.records import Question

# A JPEG is decoded at no less than this many times the size it is resized to: averaging that is as good as the whole.
_SPARE = 2
# What stands in the row of a damaged sample, under a black picture.
LEFT_OUT = (NO_QUESTION, "")


class PictureReader:
    """Reads labelled pictures in one frame."""

    def __init__(self, shards: PictureShardSet, bad: BadSamples, memory: BatchMemory) -> None:
        self._shards, self._bytes, self._bad, self._memory = shards, ShardBytes(shards), bad, memory
        self._framing = shards.framing

    def read_batch(self, examples: Sequence[int], num_valid: int | None = None) -> PictureBatch:
        """The batch of these examples; rows from `num_valid` on, and those left out as damaged, are not valid.

        Pinned where CUDA is there. Raises what the reader's BadSamples raises for a damaged sample.
        """
        rows, side = len(examples), self._framing.side
        pixels_B3HW = self._memory.empty((rows, 3, side, side), np.dtype(np.uint8))
        samples = [
            self._read_or_leave_out(example, pixels_3HW)
            for example, pixels_3HW in zip(examples, pixels_B3HW, strict=True)
        ]
        whole_B = torch.tensor([sample is not LEFT_OUT for sample in samples])
        return PictureBatch(
            questions=[question for question, _ in samples],
            image_ids=[image_id for _, image_id in samples],
            valid_B=whole_B & (torch.arange(rows) < (rows if num_valid is None else num_valid)),
            pixels_B3HW=pixels_B3HW,
        )

    def close(self) -> None:
        """Forget what was parsed."""
        self._bytes.close()

    def _read_or_leave_out(self, example: int, pixels_3HW: Tensor) -> tuple[Question, str]:
        try:
            return self.read(example, pixels_3HW)
        except DamagedSample as damage:
            self._bad.met(example, damage)
        pixels_3HW.zero_()
        return LEFT_OUT

    def read(self, example: int, pixels_3HW: Tensor) -> tuple[Question, str]:
        """Fill the row; the label, written as a question, and the picture's id.

        Raises DamagedSample naming shard and sample.
        """
        place = self._shards.locate(example)
        image = self._bytes.describe(place)
        content = self._bytes.fetch(place, "picture", image.image_id)
        try:
            pixels_HW3 = framed(decode_rgb(bytes(content), _SPARE * self._framing.resized_to), self._framing)
        except UNREADABLE as error:
            raise DamagedSample(
                f"shard {self._shards.files.name(place.shard)}, sample '{image.image_id}': its picture cannot be"
                f" decoded ({error}); the shard is damaged, write or copy it again"
            ) from None
        pixels_3HW.copy_(torch.tensor(pixels_HW3).permute(2, 0, 1))
        return image.questions[place.question], image.image_id
