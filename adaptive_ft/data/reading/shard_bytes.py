"""The bytes of shards on a disk: positioned reads that are checked against the index, and the parsed JSON members.

Readers are shared by threads: nothing here keeps a state but caches.
"""

import threading
from collections.abc import Sequence

from adaptive_ft.data.format.image_json import ImageDescription, decode_image
from adaptive_ft.data.format.shard_index import MEMBERS, IndexRow, checksum
from adaptive_ft.data.reading.bad_samples import DamagedSample
from adaptive_ft.data.reading.shard_set import Place, ShardSet
from adaptive_ft.errors import UserError

Wanted = tuple[str, memoryview]
"""A member and where its bytes go, a view as long as it."""

_DESCRIPTIONS = 4096
_FIRST_COLUMN = {member: IndexRow._fields.index(f"{member}_offset") for member in MEMBERS}
_WIDEST_GAP = 1024  # between two members of a sample: the rest of a block of 512 bytes, and a tar header of one


class ShardBytes:
    """The members of a set's samples, those of one sample read with one call, each compared with its hash."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._scratch = threading.local()
        self._between = memoryview(bytearray(_WIDEST_GAP))  # written by any thread, read by none
        self._described: dict[int, ImageDescription] = {}
        self._lock = threading.Lock()

    def describe(self, place: Place, *wanted: Wanted) -> ImageDescription:
        """The JSON member of the image at `place`; the bytes of the `wanted` members go to their views.

        What is not as it was written is read once more, from another copy where there is one. Raises DamagedSample if
        bytes are missing or are not those that were written, and UserError if the disk cannot be read.
        """
        image = self._described.get(place.image)
        if image is not None:
            if wanted:
                self._fill(place, wanted, image.image_id)
            return image
        content = self._room(place, "json")
        wrong = self._read_or_renew(place, [("json", content), *wanted])
        if "json" in wrong:
            number = place.image - int(self._shards.first_image_S[place.shard])
            raise self._damaged(place, f"image number {number}", wrong)
        image = self._parse(place, content)
        if wrong:
            raise self._damaged(place, f"sample '{image.image_id}'", wrong)
        return image

    def fetch(self, place: Place, member: str, image_id: str) -> memoryview:
        """The bytes of a member, valid until this thread's next call; `image_id` serves messages.

        Raises what `describe` raises.
        """
        view = self._room(place, member)
        self._fill(place, [(member, view)], image_id)
        return view

    def close(self) -> None:
        """Forget what was parsed; what is read afterwards is parsed again."""
        self._described.clear()

    def _room(self, place: Place, member: str) -> memoryview:
        """This thread's memory for a member."""
        size = place.row[_FIRST_COLUMN[member] + 1]
        buffer: bytearray | None = getattr(self._scratch, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._scratch.buffer = bytearray(size)
        return memoryview(buffer)[:size]

    def _fill(self, place: Place, wanted: Sequence[Wanted], image_id: str) -> None:
        wrong = self._read_or_renew(place, wanted)
        if wrong:
            raise self._damaged(place, f"sample '{image_id}'", wrong)

    def _damaged(self, place: Place, sample: str, wrong: dict[str, str]) -> DamagedSample:
        member, what = next(iter(wrong.items()))
        return DamagedSample(f"shard {self._shards.files.name(place.shard)}, {sample}: its member '{member}' {what}")

    def _read_or_renew(self, place: Place, wanted: Sequence[Wanted]) -> dict[str, str]:
        """Read, and once more from another copy where there is one; what is wrong with which member."""
        files, shard = self._shards.files, place.shard
        generation = files.generation(shard)
        try:
            wrong = self._read(place, wanted)
        except OSError:
            # A network disk may lose a file handle; a disk that cannot be read twice is no damage to a sample.
            files.renew(shard, generation)
        else:
            if not wrong or not files.renew(shard, generation):
                return wrong
        try:
            return self._read(place, wanted)
        except OSError as error:
            raise UserError(f"shard {files.name(shard)} cannot be read: {error.strerror}") from error

    def _read(self, place: Place, wanted: Sequence[Wanted]) -> dict[str, str]:
        """Read all members with one call: what lies between them goes where nobody reads it."""
        fields = place.row
        in_order = [(fields[_FIRST_COLUMN[member]], member, view) for member, view in wanted]
        in_order.sort()
        start = end = in_order[0][0]
        views: list[memoryview] = []
        for offset, _, view in in_order:
            views += (self._between[: offset - end], view)
            end = offset + len(view)
        found = self._shards.files.read_into(views, place.shard, start)
        wrong = {}
        for offset, member, view in in_order:
            there = start + found - offset
            if there < len(view):
                wrong[member] = f"has {max(0, there)} of {len(view)} bytes; the file was cut while it was in use"
            elif checksum(view) != fields[_FIRST_COLUMN[member] + 2]:
                wrong[member] = "is not what was written (its hash differs); copy the shard again"
        return wrong

    def _parse(self, place: Place, content: memoryview) -> ImageDescription:
        image = decode_image(content)
        manifest, row = self._shards.manifest, place.row
        found = (len(image.questions), image.num_boxes, image.feature_dim, image.feature_dtype)
        expected = (row.num_questions, row.num_boxes, manifest.feature_dim, manifest.feature_dtype)
        if found != expected:
            raise UserError(
                f"shard {self._shards.files.name(place.shard)}, sample '{image.image_id}' does not match manifest and"
                f" index: expected (questions, boxes, feature size, feature type) {expected}, found {found}"
            )
        with self._lock:
            self._described[place.image] = image
            if len(self._described) > _DESCRIPTIONS:
                del self._described[next(iter(self._described))]
        return image
