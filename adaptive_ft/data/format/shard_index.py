"""The index beside every shard: where each member's bytes lie and what they hash to, so that one pread fetches what a
batch needs and its hash tells whether it is what was written.

One row per image, in the order of the tar file; an .npy file without pickle. The hash is XXH3 of 64 bits: for the
148 KB of 36 x 2048 float16 it takes 2.4 us, where zlib's CRC-32 takes 170.
"""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from adaptive_ft.data.format.manifest import ShardEntry
from adaptive_ft.errors import UserError

MEMBERS = ("json", "boxes", "features", "picture")
"""The kinds of members of a sample; an image without regions has no boxes and features, most have no picture."""


class IndexRow(NamedTuple):
    """An image in the index: per member where its data starts, counted from the start of the tar file, its bytes and
    their hash; an absent member has size 0.
    """

    json_offset: int
    json_size: int
    json_xxh3: int
    boxes_offset: int
    boxes_size: int
    boxes_xxh3: int
    features_offset: int
    features_size: int
    features_xxh3: int
    picture_offset: int
    picture_size: int
    picture_xxh3: int
    num_boxes: int
    num_questions: int


INDEX_DTYPE = np.dtype([(name, "<u8" if name.endswith("xxh3") else "<i8") for name in IndexRow._fields])


def checksum(content: bytes | memoryview) -> int:
    """XXH3, 64 bits, of the bytes of a member."""
    return xxhash.xxh3_64_intdigest(content)


def index_bytes(index_I: NDArray[np.void]) -> bytes:
    """The file content of an index."""
    buffer = io.BytesIO()
    np.save(buffer, index_I, allow_pickle=False)
    return buffer.getvalue()


def load_index(folder: Path, entry: ShardEntry) -> NDArray[np.void]:
    """A shard's index, [images] of INDEX_DTYPE; UserError if it does not belong to the manifest."""
    path = folder / entry.index_file
    if not path.is_file():
        raise UserError(f"{path} is missing, the manifest lists it; copy it again or write the shards again")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != entry.index_sha256:
        raise UserError(
            f"{path} does not match the manifest: expected sha256 {entry.index_sha256[:12]}, "
            f"found {found[:12]}; copy it again"
        )
    index_I: NDArray[np.void] = np.load(io.BytesIO(content), allow_pickle=False)
    if index_I.dtype != INDEX_DTYPE:
        raise UserError(f"{path} has columns {index_I.dtype.names}, expected {INDEX_DTYPE.names}")
    for name, expected, counted in (
        ("images", entry.images, len(index_I)),
        ("questions", entry.questions, int(index_I["num_questions"].sum())),
    ):
        if expected != counted:
            raise UserError(f"the manifest lists {expected} {name} in {entry.file}, its index has {counted}")
    return index_I
