"""An example's bytes from local shards straight into a row of the batch: index, one pread per member, checks.

Shape suffixes: N regions padded to the most of the set, D feature size, 4 = x1 y1 x2 y2. Readers are shared
by threads: they keep no state but caches.
"""

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from adaptive_ft.data.image_json import ImageDescription, decode_image
from adaptive_ft.data.records import Question
from adaptive_ft.data.shard_set import BlindShardSet, Place, ShardSet
from adaptive_ft.errors import UserError

_OPEN_SHARDS = 128  # well below the usual limit of 1024 open files
_DESCRIPTIONS = 4096
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


class SampleReader(Protocol):
    """Fills a row of a batch with an example's regions and returns the rest."""

    max_boxes: int
    feature_dim: int

    def read(self, example: int, features_ND: Tensor, boxes_N4: Tensor) -> Sample:
        """Write all of features_ND and boxes_N4 (float32, zeros without a region), return the sample."""
        ...


def open_reader(shards: ShardSet) -> SampleReader:
    """The reader that fits a shard set; UserError if it has no regions and was not opened as blind."""
    if isinstance(shards, BlindShardSet):
        return BlindReader(shards)
    if shards.manifest.min_boxes == 0:
        raise UserError(f"the shards in '{shards.folder}' hold questions without regions; read them with --data.blind")
    return RegionReader(shards)


class _ShardBytes:
    """Positioned reads from the shards of a set, and their parsed JSON members."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._scratch = threading.local()
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(lambda shard: _OpenShard(shards.shard_path(shard)))
        self._describe = lru_cache(maxsize=_DESCRIPTIONS)(self._parse)

    def describe(self, place: Place) -> ImageDescription:
        """The JSON member of the image at `place`."""
        return self._describe(place.shard, place.image)

    def fetch(self, shard: int, offset: int, size: int, what: str) -> memoryview:
        """`size` bytes of a shard, valid until this thread's next call; UserError if some are missing."""
        buffer: bytearray = getattr(self._scratch, "buffer", bytearray())
        if len(buffer) < size:
            buffer = self._scratch.buffer = bytearray(size)
        view = memoryview(buffer)[:size]
        found = self._open(shard).read_into(view, offset)
        if found != size:
            raise UserError(
                f"shard {self._shards.shard_path(shard)}, {what}: expected {size} bytes at {offset}, "
                f"found {found}; the file was cut while it was in use"
            )
        return view

    def _parse(self, shard: int, number: int) -> ImageDescription:
        path, manifest = self._shards.shard_path(shard), self._shards.manifest
        row = self._shards.index_I[number]
        place = f"image number {number - int(self._shards.first_image_S[shard])}"
        content = self.fetch(shard, int(row["json_offset"]), int(row["json_size"]), place)
        try:
            image = decode_image(bytes(content))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"shard {path}, {place}: damaged JSON ({error}); copy the shard again") from None
        found = (len(image.questions), image.num_boxes, image.feature_dim, image.feature_dtype)
        counts = (int(row["num_questions"]), int(row["num_boxes"]))
        expected = (*counts, manifest.feature_dim, manifest.feature_dtype)
        if found != expected:
            raise UserError(
                f"shard {path}, sample '{image.image_id}' does not match manifest and index: expected "
                f"(questions, boxes, feature size, feature type) {expected}, found {found}"
            )
        return image


class RegionReader:
    """Reads questions with the boxes and features of their images."""

    def __init__(self, shards: ShardSet) -> None:
        self.max_boxes, self.feature_dim = shards.max_boxes, shards.feature_dim
        self._shards, self._bytes = shards, _ShardBytes(shards)
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


class BlindReader:
    """Reads questions only: one zero feature whose box is the whole picture."""

    def __init__(self, shards: BlindShardSet) -> None:
        self.max_boxes, self.feature_dim = shards.max_boxes, shards.feature_dim
        self._shards, self._bytes = shards, _ShardBytes(shards)

    def read(self, example: int, features_ND: Tensor, boxes_N4: Tensor) -> Sample:
        """Fill the row with the whole picture and nothing in it."""
        place = self._shards.locate(example)
        image = self._bytes.describe(place)
        features_ND.zero_()
        boxes_N4[0] = torch.tensor([0.0, 0.0, image.width, image.height])
        return Sample(image.questions[place.question], image.image_id, image.width, image.height, num_boxes=1)


class _OpenShard:
    """An open file that closes when its last user lets go: a cache may drop it while a thread reads."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"shard {path} cannot be opened: {error.strerror}") from None

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on, return the number of bytes; a method, so that the file outlives the call."""
        return os.preadv(self.descriptor, [view], offset)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
