"""Questions with the regions of their images, from local shards straight into the rows of a batch.

Shape suffixes: B rows, N regions padded to the most of the set, D feature size, 4 = x1 y1 x2 y2, 2 = width height.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_ft.data.reading.bad_samples import BadSamples, DamagedSample
from adaptive_ft.data.reading.batch import NO_QUESTION, RawBatch
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.shard_bytes import ShardBytes
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import Question

Numbers = NDArray[np.floating]


class Sample(NamedTuple):
    """What comes with an example beside its regions."""

    question: Question
    image_id: str
    width: int
    height: int
    num_boxes: int


# What stands in the row of a damaged sample: nothing, with the whole of an empty picture as its one region.
LEFT_OUT = Sample(NO_QUESTION, image_id="", width=1, height=1, num_boxes=1)


class QuestionReader(ABC):
    """Makes batches of questions; what stands in their regions is the kind of reader's."""

    def __init__(self, shards: ShardSet, bad: BadSamples, memory: BatchMemory) -> None:
        self.max_boxes, self.feature_dim = shards.max_boxes, shards.feature_dim
        self.feature_dtype = np.dtype(shards.manifest.feature_dtype)
        self._shards, self._bytes, self._bad, self._memory = shards, ShardBytes(shards), bad, memory

    @abstractmethod
    def read(self, example: int, features_ND: Numbers, boxes_N4: Numbers) -> Sample:
        """Write all of features_ND (of the stored type) and boxes_N4 (float32), zeros without a region.

        Raises DamagedSample naming shard and sample.
        """

    def read_batch(self, examples: Sequence[int], num_valid: int | None = None) -> RawBatch:
        """The batch of these examples; rows from `num_valid` on, and those left out as damaged, are not valid.

        Pinned where CUDA is there. Raises what the reader's BadSamples raises for a damaged sample.
        """
        rows, regions = len(examples), self.max_boxes
        features_BND = self._memory.empty((rows, regions, self.feature_dim), self.feature_dtype)
        boxes_BN4 = self._memory.empty((rows, regions, 4), np.dtype(np.float32))
        # The rows are handed on as numpy's views of the same memory: slicing one takes a tenth of a tensor's time.
        samples = [
            self._read_or_leave_out(example, features_ND, boxes_N4)
            for example, features_ND, boxes_N4 in zip(examples, features_BND.numpy(), boxes_BN4.numpy(), strict=True)
        ]
        whole_B = torch.tensor([sample is not LEFT_OUT for sample in samples])
        # By way of numpy, which takes a third of the time torch takes for a list of lists.
        sizes_B3 = torch.from_numpy(np.array([(sample.width, sample.height, sample.num_boxes) for sample in samples]))
        return RawBatch(
            features_BND=features_BND,
            boxes_BN4=boxes_BN4,
            box_mask_BN=torch.arange(regions) < sizes_B3[:, 2:],
            sizes_B2=sizes_B3[:, :2].float(),
            questions=[sample.question for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            valid_B=whole_B & (torch.arange(rows) < (rows if num_valid is None else num_valid)),
        )

    def close(self) -> None:
        """Forget what was parsed."""
        self._bytes.close()

    def _read_or_leave_out(self, example: int, features_ND: Numbers, boxes_N4: Numbers) -> Sample:
        try:
            return self.read(example, features_ND, boxes_N4)
        except DamagedSample as damage:
            self._bad.met(example, damage)
        features_ND[:], boxes_N4[:] = 0, 0
        boxes_N4[0, 2:] = LEFT_OUT.width, LEFT_OUT.height
        return LEFT_OUT


class RegionReader(QuestionReader):
    """Reads questions with the boxes and features of their images, from the disk into the batch without a copy."""

    def read(self, example: int, features_ND: Numbers, boxes_N4: Numbers) -> Sample:
        """Fill the row; nothing of a sample that is damaged counts."""
        place = self._shards.locate(example)
        count = place.row.num_boxes
        if count < len(boxes_N4):
            boxes_N4[count:], features_ND[count:] = 0, 0
            boxes_N4, features_ND = boxes_N4[:count], features_ND[:count]
        image = self._bytes.describe(
            place, ("boxes", boxes_N4.data.cast("B")), ("features", features_ND.data.cast("B"))
        )
        return Sample(image.questions[place.question], image.image_id, image.width, image.height, count)


class BlindReader(QuestionReader):
    """Reads questions only: one zero feature whose box is the whole picture."""

    def read(self, example: int, features_ND: Numbers, boxes_N4: Numbers) -> Sample:
        """Fill the row with the whole picture and nothing in it."""
        place = self._shards.locate(example)
        image = self._bytes.describe(place)
        features_ND[:], boxes_N4[0] = 0, (0, 0, image.width, image.height)
        return Sample(image.questions[place.question], image.image_id, image.width, image.height, num_boxes=1)
