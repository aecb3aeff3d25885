"""The bytes of local shards: positioned reads, and the parsed JSON member of every image.

Readers are shared by threads: nothing here keeps a state but caches.
"""

import os
import threading
from functools import lru_cache
from pathlib import Path

from adaptive_ft.data.image_json import ImageDescription, decode_image
from adaptive_ft.data.shard_set import Place, ShardSet
from adaptive_ft.errors import UserError

_OPEN_SHARDS = 128  # well below the usual limit of 1024 open files
_DESCRIPTIONS = 4096


class ShardBytes:
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
