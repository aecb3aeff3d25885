"""The thorough check of one shard: its hash, every member's hash, and every tar header against the index."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.format.image_json import decode_image
from adaptive_ft.data.format.manifest import ShardEntry
from adaptive_ft.data.format.shard_index import MEMBERS, checksum
from adaptive_ft.errors import UserError


def check_shard(folder: Path, entry: ShardEntry, index_I: NDArray[np.void]) -> None:
    """Compare a shard with the manifest's hash and with its index [images]; UserError if they differ.

    The hash proves that the bytes are those that were written, whatever a tar reader would pass over in silence; where
    it differs, the members' hashes tell which samples are damaged. The scan proves that index and tar file agree.
    """
    path = folder / entry.file
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry.sha256:
            raise UserError(
                f"shard {path} does not match the manifest: expected sha256 {entry.sha256[:12]}, "
                f"found {found[:12]}. {_diagnosis(file, index_I)} Copy it again."
            )
        if sorted(_listed(index_I)) != sorted(_found(path)) or any(_damaged(file, index_I)):
            raise UserError(f"shard {path}: its index does not point at its members; write the shards again")
        _check_counts(file, path, index_I)


def _diagnosis(file: BinaryIO, index_I: NDArray[np.void]) -> str:
    """Which samples of a changed shard are damaged, in a sentence."""
    damaged = list(_damaged(file, index_I))
    if not damaged:
        return "All its members are as written: the damage lies in a tar header or between members."
    number, member = damaged[0]
    name, samples = _name(file, index_I[number], number), len({number for number, _ in damaged})
    return f"{samples} of its {len(index_I)} samples are damaged, the first is {name} in its member '{member}'."


def _damaged(file: BinaryIO, index_I: NDArray[np.void]) -> Iterator[tuple[int, str]]:
    """(number of the sample, kind of member) of whatever is not at the index's place with the index's hash."""
    for number, row in enumerate(index_I):
        for kind in MEMBERS:
            if row[f"{kind}_size"] and checksum(_read(file, row, kind)) != row[f"{kind}_xxh3"]:
                yield number, kind


def _name(file: BinaryIO, row: np.void, number: int) -> str:
    """The id of a sample if its JSON can still be read, else its number."""
    try:
        return f"'{decode_image(_read(file, row, 'json')).image_id}'"
    except (ValueError, KeyError, TypeError):
        return f"number {number}"


def _read(file: BinaryIO, row: np.void, kind: str) -> bytes:
    file.seek(int(row[f"{kind}_offset"]))
    return file.read(int(row[f"{kind}_size"]))


def _listed(index_I: NDArray[np.void]) -> Iterator[tuple[str, int, int]]:
    """(kind of member, offset of its data, size) as the index has them."""
    for row in index_I:
        for kind in MEMBERS:
            if row[f"{kind}_size"]:
                yield kind, int(row[f"{kind}_offset"]), int(row[f"{kind}_size"])


def _found(path: Path) -> Iterator[tuple[str, int, int]]:
    """(kind of member, offset of its data, size) as the tar headers have them."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            yield member.name.split(".")[1], member.offset_data, member.size


def _check_counts(file: BinaryIO, path: Path, index_I: NDArray[np.void]) -> None:
    for row in index_I:
        image = decode_image(_read(file, row, "json"))
        for name, expected, counted in (
            ("boxes", row["num_boxes"], image.num_boxes),
            ("questions", row["num_questions"], len(image.questions)),
        ):
            if expected != counted:
                raise UserError(
                    f"shard {path}, sample '{image.image_id}': the index says {expected} {name}, "
                    f"found {counted}; write the shards again"
                )
