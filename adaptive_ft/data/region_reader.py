"""Questions with the regions of their images, from local shards straight into the rows of a batch.

Shape suffixes: B rows, N regions padded to the most of the set, D feature size, 4 = x1 y1 x2 y2, 2 = width height.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptive_ft.data.batch import RawBatch
from adaptive_ft.data.records import Question
from adaptive_ft.data.shard_bytes import ShardBytes
from adaptive_ft.data.shard_set import Place, ShardSet
from adaptive_ft.errors import UserError

# From 32768 numbers on PyTorch copies with a team of threads per caller, taking cores from training.
_SERIAL_COPY = 32767
_STORED = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Sample:
    """What comes with an example beside its regions."""

    question: Question
    image_id: str
    width: int
    height: int
    num_boxes: int


class QuestionReader(ABC):
    """Makes batches of questions; what stands in their regions is the kind of reader's."""

    def __init__(self, shards: ShardSet) -> None:
        self.max_boxes, self.feature_dim = shards.max_boxes, shards.feature_dim
        self._shards, self._bytes = shards, ShardBytes(shards)

    @abstractmethod
    def read(self, example: int, features_ND: Tensor, boxes_N4: Tensor) -> Sample:
        """Write all of features_ND and boxes_N4 (float32, zeros without a region), return the sample."""

    def read_batch(self, examples: Sequence[int], num_valid: int | None = None) -> RawBatch:
        """The batch of these examples, rows from `num_valid` on not valid; pinned where CUDA is there."""
        rows, regions, pinned = len(examples), self.max_boxes, torch.cuda.is_available()
        features_BND = torch.empty(rows, regions, self.feature_dim, pin_memory=pinned)
        boxes_BN4 = torch.empty(rows, regions, 4, pin_memory=pinned)
        samples = [
            self.read(example, features_ND, boxes_N4)
            for example, features_ND, boxes_N4 in zip(examples, features_BND, boxes_BN4, strict=True)
        ]
        num_boxes_B1 = torch.tensor([[sample.num_boxes] for sample in samples])
        return RawBatch(
            features_BND=features_BND,
            boxes_BN4=boxes_BN4,
            box_mask_BN=torch.arange(regions) < num_boxes_B1,
            sizes_B2=torch.tensor([[sample.width, sample.height] for sample in samples], dtype=torch.float32),
            questions=[sample.question for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            valid_B=torch.arange(rows) < (rows if num_valid is None else num_valid),
        )


class RegionReader(QuestionReader):
    """Reads questions with the boxes and features of their images."""

    def __init__(self, shards: ShardSet) -> None:
        super().__init__(shards)
        self._stored = _STORED[shards.manifest.feature_dtype]

    def read(self, example: int, features_ND: Tensor, boxes_N4: Tensor) -> Sample:
        """Fill the row; UserError naming shard and sample if bytes are missing or a feature is not finite."""
        place = self._shards.locate(example)
        image = self._bytes.describe(place)
        count = image.num_boxes
        self._copy(place, "boxes_offset", image.image_id, boxes_N4[:count], torch.float32)
        self._copy(place, "features_offset", image.image_id, features_ND[:count], self._stored)
        boxes_N4[count:].zero_()
        features_ND[count:].zero_()
        return Sample(image.questions[place.question], image.image_id, image.width, image.height, count)

    def _copy(self, place: Place, column: str, image_id: str, into: Tensor, stored: torch.dtype) -> None:
        size = into.numel() * stored.itemsize
        content = self._bytes.fetch(place.shard, int(place.row[column]), size, f"sample '{image_id}'")
        numbers, flat = torch.frombuffer(content, dtype=stored), into.view(-1)
        for start in range(0, len(flat), _SERIAL_COPY):
            flat[start : start + _SERIAL_COPY].copy_(numbers[start : start + _SERIAL_COPY])
        if not np.isfinite(flat.numpy()).all():
            path, member = self._shards.shard_path(place.shard), column.removesuffix("_offset")
            raise UserError(
                f"shard {path}, sample '{image_id}': its {member} hold NaN or infinity; "
                "the shard is damaged, write or copy it again"
            )


class BlindReader(QuestionReader):
    """Reads questions only: one zero feature whose box is the whole picture."""

    def read(self, example: int, features_ND: Tensor, boxes_N4: Tensor) -> Sample:
        """Fill the row with the whole picture and nothing in it."""
        place = self._shards.locate(example)
        image = self._bytes.describe(place)
        features_ND.zero_()
        boxes_N4[0] = torch.tensor([0.0, 0.0, image.width, image.height])
        return Sample(image.questions[place.question], image.image_id, image.width, image.height, num_boxes=1)
