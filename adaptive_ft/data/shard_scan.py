"""The thorough check of one shard: its hash, and every tar header against the index."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.image_json import decode_image
from adaptive_ft.data.manifest import ShardEntry
from adaptive_ft.errors import UserError


def check_shard(folder: Path, entry: ShardEntry, index_I: NDArray[np.void]) -> None:
    """Compare a shard with the manifest's hash and with its index [images]; UserError if they differ.

    The hash proves that the bytes are those that were written; the scan proves that index and tar file agree.
    """
    path = folder / entry.file
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise UserError(
            f"shard {path} does not match the manifest: expected sha256 {entry.sha256[:12]}, "
            f"found {found[:12]}; copy it again"
        )
    if sorted(_listed(index_I)) != sorted(_found(path)):
        raise UserError(f"shard {path}: its index does not point at its members; write the shards again")
    _check_counts(path, index_I)


def _listed(index_I: NDArray[np.void]) -> Iterator[tuple[str, int]]:
    """(kind of member, offset of its data) as the index has them."""
    for row in index_I:
        yield "json", int(row["json_offset"])
        if row["num_boxes"]:
            yield "boxes", int(row["boxes_offset"])
            yield "features", int(row["features_offset"])
        if row["picture_size"]:
            yield "picture", int(row["picture_offset"])


def _found(path: Path) -> Iterator[tuple[str, int]]:
    """(kind of member, offset of its data) as the tar headers have them."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            yield member.name.split(".")[1], member.offset_data


def _check_counts(path: Path, index_I: NDArray[np.void]) -> None:
    with path.open("rb") as file:
        for row in index_I:
            file.seek(row["json_offset"])
            image = decode_image(file.read(int(row["json_size"])))
            for name, expected, counted in (
                ("boxes", row["num_boxes"], image.num_boxes),
                ("questions", row["num_questions"], len(image.questions)),
            ):
                if expected != counted:
                    raise UserError(
                        f"shard {path}, sample '{image.image_id}': the index says {expected} {name}, "
                        f"found {counted}; write the shards again"
                    )
