"""The bytes of shards on a disk: positioned reads that are checked against the index, and the parsed JSON members.

Readers are shared by threads: nothing here keeps a state but caches.
"""

import threading
from functools import lru_cache

from adaptive_ft.data.format.image_json import ImageDescription, decode_image
from adaptive_ft.data.format.shard_index import checksum
from adaptive_ft.data.reading.bad_samples import DamagedSample
from adaptive_ft.data.reading.shard_set import Place, ShardSet
from adaptive_ft.errors import UserError

_DESCRIPTIONS = 4096


class ShardBytes:
    """The members of a set's samples, each read with one call and compared with its hash."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._scratch = threading.local()
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

        What is not as it was written is read once more, from another copy where there is one. Raises DamagedSample if
        bytes are missing or are not those that were written, and UserError if the disk cannot be read.
        """
        wrong = self._read(view, place, member)
        if wrong is not None and self._shards.files.renew(place.shard):
            wrong = self._read(view, place, member)
        if wrong is not None:
            raise DamagedSample(
                f"shard {self._shards.files.name(place.shard)}, {sample}: its member '{member}' {wrong}"
            )

    def _read(self, view: memoryview, place: Place, member: str) -> str | None:
        """Read into `view`; what is wrong with what came."""
        offset = int(place.row[f"{member}_offset"])
        try:
            found = self._shards.files.read_into(view, place.shard, offset)
        except OSError:
            # A network disk may lose a file handle; a disk that cannot be read twice is no damage to a sample.
            self._shards.files.renew(place.shard)
            found = self._read_again(view, place, offset)
        if found != len(view):
            return f"has {found} of {len(view)} bytes; the file was cut while it was in use"
        if checksum(view) != place.row[f"{member}_xxh3"]:
            return "is not what was written (its hash differs); copy the shard again"
        return None

    def _read_again(self, view: memoryview, place: Place, offset: int) -> int:
        try:
            return self._shards.files.read_into(view, place.shard, offset)
        except OSError as error:
            raise UserError(f"shard {self._shards.files.name(place.shard)} cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Forget what was parsed; what is read afterwards is parsed again."""
        self._describe.cache_clear()

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
