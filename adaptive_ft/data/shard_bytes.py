"""The bytes of shards on a disk: positioned reads that are checked against the index, and the parsed JSON members.

Readers are shared by threads: nothing here keeps a state but caches.
"""

import os
import threading
from functools import lru_cache

from adaptive_ft.data.bad_samples import DamagedSample
from adaptive_ft.data.image_json import ImageDescription, decode_image
from adaptive_ft.data.shard_index import checksum
from adaptive_ft.data.shard_set import Place, ShardSet
from adaptive_ft.errors import UserError

_OPEN_SHARDS = 128  # well below the usual limit of 1024 open files
_DESCRIPTIONS = 4096


class ShardBytes:
    """The members of a set's samples, each read with one call and compared with its hash."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._scratch = threading.local()
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(lambda shard: _OpenShard(shards.files.open(shard)))
        self._describe = lru_cache(maxsize=_DESCRIPTIONS)(self._parse)

    def describe(self, place: Place) -> ImageDescription:
        """The JSON member of the image at `place`; DamagedSample if it is not as it was written."""
        return self._describe(place.shard, place.image)

    def fetch(self, place: Place, member: str, sample: str) -> memoryview:
        """The bytes of a member, valid until this thread's next call; `sample` names the image in a message.

        Raises DamagedSample if bytes are missing or are not those that were written.
        """
        size = int(place.row[f"{member}_size"])
        buffer: bytearray = getattr(self._scratch, "buffer", bytearray())
        if len(buffer) < size:
            buffer = self._scratch.buffer = bytearray(size)
        view = memoryview(buffer)[:size]
        self.fill(view, place, member, sample)
        return view

    def fill(self, view: memoryview, place: Place, member: str, sample: str) -> None:
        """Write the bytes of a member to `view`, which is as long; `sample` names the image in a message.

        Raises DamagedSample if bytes are missing or are not those that were written.
        """
        try:
            found = self._open(place.shard).read_into(view, int(place.row[f"{member}_offset"]))
        except OSError as error:
            raise self._damaged(place, sample, f"its member '{member}' cannot be read: {error.strerror}") from error
        if found != len(view):
            raise self._damaged(
                place,
                sample,
                f"its member '{member}' has {found} of {len(view)} bytes; the file was cut while it was in use",
            )
        if checksum(view) != place.row[f"{member}_xxh3"]:
            raise self._damaged(
                place, sample, f"its member '{member}' is not what was written (its hash differs); copy the shard again"
            )

    def _damaged(self, place: Place, sample: str, what: str) -> DamagedSample:
        return DamagedSample(f"shard {self._shards.files.name(place.shard)}, {sample}: {what}")

    def _parse(self, shard: int, number: int) -> ImageDescription:
        place = Place(shard, number, 0, self._shards.index_I[number])
        sample = f"image number {number - int(self._shards.first_image_S[shard])}"
        image = decode_image(bytes(self.fetch(place, "json", sample)))
        manifest, row = self._shards.manifest, place.row
        found = (len(image.questions), image.num_boxes, image.feature_dim, image.feature_dtype)
        expected = (int(row["num_questions"]), int(row["num_boxes"]), manifest.feature_dim, manifest.feature_dtype)
        if found != expected:
            raise UserError(
                f"shard {self._shards.files.name(shard)}, sample '{image.image_id}' does not match manifest and index:"
                f" expected (questions, boxes, feature size, feature type) {expected}, found {found}"
            )
        return image


class _OpenShard:
    """An open file that closes when its last user lets go: a cache may drop it while a thread reads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` on, return the number of bytes; a method, so that the file outlives the call."""
        return os.preadv(self.descriptor, [view], offset)

    def __del__(self) -> None:
        os.close(self.descriptor)
