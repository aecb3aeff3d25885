"""Images out of shard sets on their way into another one: other cuts of the same samples, and several sets as one.

Every member is compared with its hash as it is read. The numbers of features and boxes are copied as they are stored,
and so are pictures; only the descriptions are parsed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.format.shard_index import IndexRow
from adaptive_ft.data.reading.shard_bytes import ShardBytes
from adaptive_ft.data.reading.shard_set import Place, ShardSet
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.errors import UserError


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image in a shard set, its description parsed, its numbers not read yet."""

    image_id: str
    questions: tuple[Question, ...]
    origin: str
    folder: Path
    place: Place


def packed_images(folder: Path) -> Iterator[PackedImage]:
    """The images of a set in its order, with their questions in theirs; UserError names a damaged shard and sample."""
    shards = ShardSet.open(folder)
    content = ShardBytes(shards)
    number = 0
    for shard, entry in enumerate(shards.manifest.shards):
        for _ in range(entry.images):
            place = Place(shard, number, 0, IndexRow._make(shards.index_I[number].item()))
            image = content.describe(place)
            yield PackedImage(image.image_id, image.questions, f"{folder / entry.file}", folder, place)
            number += 1


class PackedReader:
    """Reads packed images, in any process; the set of the image before stays open."""

    def __init__(self) -> None:
        self._opened: tuple[Path, ShardSet, ShardBytes] | None = None

    def __call__(self, image: PackedImage) -> ImageRecord:
        """The record whose bytes are those stored; UserError naming shard and sample if they are not as written."""
        if self._opened is None or self._opened[0] != image.folder:
            shards = ShardSet.open(image.folder)
            self._opened = image.folder, shards, ShardBytes(shards)
        _, shards, content = self._opened
        place, name = image.place, image.image_id
        described = content.describe(place)
        boxes_N4: NDArray[Any] = np.empty((0, 4), dtype=np.float32)
        features_ND: NDArray[Any] = np.empty((0, described.feature_dim), dtype=np.float32)
        if described.num_boxes:
            boxes_N4 = _numbers(content.fetch(place, "boxes", name), "float32").reshape(-1, 4)
            stored = content.fetch(place, "features", name)
            features_ND = _numbers(stored, described.feature_dtype).reshape(-1, described.feature_dim)
        picture = bytes(content.fetch(place, "picture", name)) if place.row.picture_size else None
        return ImageRecord(
            image_id=image.image_id,
            width=described.width,
            height=described.height,
            boxes=boxes_N4,
            features=features_ND,
            questions=image.questions,
            picture=picture,
            origin=image.origin,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process sets are opened anew."""
        return PackedReader, ()


def info_of(folder: Path, manifest: Manifest, **changes: Any) -> ShardInfo:
    """What the manifest of the set in `folder` says about it, for a set of the same samples."""
    known = {name: getattr(manifest, name) for name in ShardInfo.__dataclass_fields__}
    known["tokenizer"] = manifest.tokenizer_from(folder)
    return ShardInfo(**{**known, **changes})


def info_of_merged(folders: Sequence[Path], manifests: Sequence[Manifest], split: str | None) -> ShardInfo:
    """What is said about several sets that become one; `split` names it where they have different names.

    Raises UserError naming two sets that are not of one kind, and in what they differ.
    """
    first = manifests[0]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        for name in (
            *("content", "domain", "answered", "feature_extractor", "feature_dim", "feature_dtype", "box_convention"),
            *("answer_table", "tokenizer", "tokenizer_files"),
        ):
            one, other = getattr(first, name), getattr(manifest, name)
            if one != other:
                told = _difference(one, other) if name == "answer_table" else f"'{one}' and '{other}'"
                raise UserError(f"'{folders[0]}' and '{folder}' cannot become one set, as their {name} differs: {told}")
        if split is None and manifest.split != first.split:
            raise UserError(
                f"'{folders[0]}' is of the split '{first.split}' and '{folder}' of '{manifest.split}'; name the split "
                "of the merged set with --split"
            )
    return info_of(folders[0], first, split=split or first.split)


def files_of(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """The files of a set whose change makes it another one."""
    for entry in manifest.shards:
        yield from (folder / entry.file, folder / entry.index_file)


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    if set(one) == set(other):
        return "the same answers in another order; write one with --like the other"
    only = [answer for answer in other if answer not in set(one)] or [
        answer for answer in one if answer not in set(other)
    ]
    return f"{len(one)} and {len(other)} answers, '{only[0]}' is in one alone; write one with --like the other"


def _numbers(content: memoryview, dtype: str) -> NDArray[Any]:
    """The numbers of a member, in memory of their own."""
    return np.frombuffer(bytes(content), dtype=np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
