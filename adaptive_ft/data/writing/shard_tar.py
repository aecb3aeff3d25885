"""One shard while it is written: a WebDataset tar file, its hash and its index, in one pass.

Shape suffixes: N regions of an image, D feature size, 4 = x1 y1 x2 y2, I images of the shard.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from adaptive_ft.data.format.image_json import encode_image
from adaptive_ft.data.format.manifest import FEATURE_DTYPES, ShardEntry
from adaptive_ft.data.format.shard_index import INDEX_DTYPE, MEMBERS, checksum, index_bytes
from adaptive_ft.data.pixels import PICTURE_ENDINGS
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.errors import UserError

_TAR_BLOCK = 512


class ShardTar:
    """Writes the records given to `add` into `path` and, on `finish`, the index beside it.

    A sample is `<image_id>.json`, and where regions are known `<image_id>.boxes.f32` and
    `<image_id>.features.f16` (or `.f32`), raw little-endian numbers in row order; a picture is
    `<image_id>.picture.png` (or `.jpg`). Equal records give equal bytes.
    """

    def __init__(self, path: Path, feature_dtype: str) -> None:
        self.path = path
        self._feature_dtype = feature_dtype
        self._file = _HashedFile(path)
        # mtime=0: a fractional time would cost a pax header per member and make the bytes differ every time.
        self._tar = TarWriter(self._file, encoder=False, mtime=0, compress=False)
        self._rows: list[tuple[int, ...]] = []

    def add(self, record: ImageRecord) -> None:
        """Append one valid record; UserError if its features do not fit the stored type."""
        places = self._append(record.image_id, members_of(record, self._feature_dtype))
        told = [number for kind in MEMBERS for number in places.get(kind, (0, 0, 0))]
        self._rows.append((*told, len(record.boxes), len(record.questions)))

    def _append(self, key: str, members: dict[str, bytes]) -> dict[str, tuple[int, int, int]]:
        """Write the members; by kind where their data starts, its size and its hash."""
        position, places = self._tar.tarstream.offset, {}
        for name in sorted(members):  # the order TarWriter uses
            content = members[name]
            places[name.partition(".")[0]] = (position + _TAR_BLOCK, len(content), checksum(content))
            position += _TAR_BLOCK + -(-len(content) // _TAR_BLOCK) * _TAR_BLOCK
        self._tar.write({"__key__": key, **members})
        assert self._tar.tarstream.offset == position, f"unexpected tar layout at '{key}'"
        return places

    def finish(self) -> ShardEntry:
        """Close the tar file, write the index, both on disk when this returns."""
        self._tar.close()
        self._file.close()
        index_I = np.array(self._rows, dtype=INDEX_DTYPE)
        index_path = self.path.with_suffix(".index.npy")
        index_file = _HashedFile(index_path)
        index_file.write(index_bytes(index_I))
        index_file.close()
        return ShardEntry(
            file=self.path.name,
            images=len(index_I),
            questions=int(index_I["num_questions"].sum()),
            bytes=self._file.num_bytes,
            sha256=self._file.sha256.hexdigest(),
            index_file=index_path.name,
            index_sha256=index_file.sha256.hexdigest(),
        )

    def abandon(self) -> None:
        """Let go of a file that is about to be deleted; a full disk must not hide the error that led here."""
        with suppress(OSError):
            self._tar.close()
            self._file.close()


def members_of(record: ImageRecord, feature_dtype: str) -> dict[str, bytes]:
    """What is stored of a record, by the member's name behind the id; UserError if it cannot be stored so."""
    members = {"json": encode_image(record, feature_dtype)}
    if len(record.boxes):
        members["boxes.f32"] = record.boxes.astype("<f4").tobytes()
        members[f"features.{FEATURE_DTYPES[feature_dtype]}"] = stored_features(record, feature_dtype).tobytes()
    if record.picture is not None:
        members[f"picture.{_picture_ending(record)}"] = record.picture
    return members


def stored_features(record: ImageRecord, feature_dtype: str) -> NDArray[np.floating]:
    """The features [N,D] in the stored type; UserError if a number is too large for float16."""
    with np.errstate(over="ignore"):
        features_ND = record.features.astype(np.dtype(feature_dtype).newbyteorder("<"))
    if not np.isfinite(features_ND).all():
        largest = float(np.abs(record.features).max())
        raise UserError(f"image '{record.image_id}': feature {largest:g} does not fit {feature_dtype}; store float32")
    return features_ND


def _picture_ending(record: ImageRecord) -> str:
    for magic, ending in PICTURE_ENDINGS.items():
        if record.picture and record.picture.startswith(magic):
            return ending
    raise UserError(f"image '{record.image_id}': the picture is neither PNG nor JPEG; encode it as one of them")


class _HashedFile:
    """A file for writing that hashes what goes through it and is on disk once closed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.num_bytes += len(content)
        return self._file.write(content)

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
