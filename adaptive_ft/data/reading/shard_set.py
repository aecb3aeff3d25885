"""An opened folder of shards: cheap checks first, then examples by number.

An example is one question; examples are numbered in the order of shards, images and questions. Shape
suffixes: I images of the set, S shards.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.format.manifest import LABELLED_PICTURES, Manifest, ShardEntry
from adaptive_ft.data.format.shard_index import MEMBERS, IndexRow, load_index
from adaptive_ft.data.format.shard_scan import check_shard
from adaptive_ft.data.format.tokenizer_files import check_tokenizer
from adaptive_ft.data.pixels import Framing
from adaptive_ft.data.places.copied_files import CopiedFiles
from adaptive_ft.data.places.remote import RemoteFolder
from adaptive_ft.data.places.shard_copies import ShardCopies, fetch_set
from adaptive_ft.data.places.shard_files import LocalFiles, ShardFiles
from adaptive_ft.data.reading.order import MOST_PLANNED
from adaptive_ft.errors import UserError

OnCut = Callable[[str], None]
"""Is told, in a sentence, of a shard that was cut short; raises if that is not to be."""

BLIND_FEATURE_DIM = 16  # nothing but zeros goes in, so the smallest projection that is still a matrix will do


class Place(NamedTuple):
    """Where an example lies: shard, image and its index row, place among the image's questions."""

    shard: int
    image: int
    question: int
    row: IndexRow


@dataclass(frozen=True)
class ShardSet:
    """A whole, checked shard set; `open` and `open_remote` make it.

    `folder` holds manifest and indexes, and `files` gives the shards, which lie in it or come from elsewhere.
    `index_I` holds the rows of all shards' indexes, `first_image_S` and `first_example_I` where each shard's
    images and each image's questions start.
    """

    folder: Path
    manifest: Manifest
    files: ShardFiles
    index_I: NDArray[np.void]
    first_image_S: NDArray[np.int64]
    first_example_I: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path, on_cut: OnCut | None = None) -> Self:
        """Open `folder` after the cheap checks: manifest, presence and size of every shard, indexes.

        A shard that is shorter than the manifest says is told to `on_cut`, if there is one, and its lost samples are
        damaged when they are read. Raises UserError naming the file, what was expected and what was found. `verify`
        reads every byte.
        """
        manifest = Manifest.load(folder)
        indexes = [load_index(folder, entry) for entry in manifest.shards]
        for entry, index_I in zip(manifest.shards, indexes, strict=True):
            _check_presence(folder, entry, index_I, on_cut or _refuse)
        return cls._opened(folder, manifest, indexes, LocalFiles(folder, manifest))

    @classmethod
    def open_remote(cls, address: str, cache: Path, room: int) -> Self:
        """Open the set behind an address (see data/places/remote.py), whose shards are copied below `cache` when they
        are needed; copies that no plan names go where more than `room` bytes would be taken.

        Raises UserError for what cannot be fetched or is not what the manifest promises, and for a room that is smaller
        than the shards that training plans at a time.
        """
        remote = RemoteFolder(address)
        folder, manifest, indexes = fetch_set(remote, cache)
        _check_room(address, manifest, room)
        return cls._opened(folder, manifest, indexes, CopiedFiles(ShardCopies(remote, folder, manifest, room)))

    @classmethod
    def _opened(cls, folder: Path, manifest: Manifest, indexes: Sequence[NDArray[np.void]], files: ShardFiles) -> Self:
        check_tokenizer(folder, manifest.tokenizer_files)
        index_I = np.concatenate(indexes)
        _check_box_counts(folder, manifest, index_I)
        starts_S = np.cumsum([0] + [entry.images for entry in manifest.shards], dtype=np.int64)[:-1]
        ends_I = np.cumsum(index_I["num_questions"], dtype=np.int64)
        return cls(folder, manifest, files, index_I, starts_S, ends_I - index_I["num_questions"])

    def for_stream(self) -> Self:
        """The same set with files of its own, which one stream may plan, halt and close."""
        return replace(self, files=self.files.opened())

    def with_blind(self, feature_dim: int | None = None) -> "BlindShardSet":
        """The same questions without their regions: one zero feature and the whole picture as its box.

        `feature_dim` defaults to that of the shards, so that one model fits both, or 16 where they have none.
        """
        dim = feature_dim or self.manifest.feature_dim or BLIND_FEATURE_DIM
        parts = (self.folder, self.manifest, self.files, self.index_I, self.first_image_S, self.first_example_I)
        return BlindShardSet(*parts, blind_feature_dim=dim)

    def with_pictures(self, framing: Framing) -> "PictureShardSet":
        """The same labelled pictures, every one in the same frame.

        Raises UserError when the set holds something else.
        """
        if self.manifest.content != LABELLED_PICTURES:
            raise UserError(
                f"the shards in '{self.address}' hold {self.manifest.content}, no labelled pictures; make those with"
                " adaptive-ft shards --pictures FOLDER"
            )
        parts = (self.folder, self.manifest, self.files, self.index_I, self.first_image_S, self.first_example_I)
        return PictureShardSet(*parts, framing=framing)

    @property
    def num_examples(self) -> int:
        """Questions in the set."""
        return self.manifest.questions

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that differ between sets of different bytes."""
        hashes = " ".join(entry.sha256 for entry in self.manifest.shards)
        return hashlib.sha256(hashes.encode()).hexdigest()[:12]

    @property
    def num_images(self) -> int:
        """Images in the set."""
        return self.manifest.images

    @property
    def max_boxes(self) -> int:
        """Regions of the image that has most: every batch is padded to it."""
        return self.manifest.max_boxes

    @property
    def feature_dim(self) -> int:
        """Size of one region's feature vector."""
        return self.manifest.feature_dim

    @property
    def examples_per_shard(self) -> list[int]:
        """Questions in each shard, in order."""
        return [entry.questions for entry in self.manifest.shards]

    def cut_off(self) -> list[int]:
        """The numbers of the examples of which a part lies behind the end of its shard, which was cut."""
        images = [entry.images for entry in self.manifest.shards]
        ends_of_shards_I = np.repeat([self.files.size(shard) for shard in range(len(images))], images)
        lost_I = _ends(self.index_I) > ends_of_shards_I
        return np.flatnonzero(np.repeat(lost_I, self.index_I["num_questions"])).tolist()

    def locate(self, example: int) -> Place:
        """Where example number `example` lies."""
        # bisect on lists: numpy's searchsorted takes ten times as long for a single number.
        image = bisect_right(self._first_examples, example) - 1
        shard = bisect_right(self._first_images, image) - 1
        return Place(shard, image, example - self._first_examples[image], self._row(image))

    def images(self) -> Iterator[Place]:
        """Where the first question of every image lies, or would lie, in order."""
        for shard, (first, entry) in enumerate(zip(self._first_images, self.manifest.shards, strict=True)):
            for image in range(first, first + entry.images):
                yield Place(shard, image, 0, self._row(image))

    def _row(self, image: int) -> IndexRow:
        return IndexRow._make(self.index_I[image].item())

    @cached_property
    def _first_examples(self) -> list[int]:
        return self.first_example_I.tolist()

    @cached_property
    def _first_images(self) -> list[int]:
        return self.first_image_S.tolist()

    @property
    def address(self) -> str:
        """How messages call the set: its folder, or where it comes from."""
        return self.files.address


@dataclass(frozen=True)
class BlindShardSet(ShardSet):
    """A shard set whose features stay unread: every image is one zero vector, its box the whole picture."""

    blind_feature_dim: int = BLIND_FEATURE_DIM

    @property
    def max_boxes(self) -> int:
        """One: the whole picture."""
        return 1

    @property
    def feature_dim(self) -> int:
        """Size of the zero vector."""
        return self.blind_feature_dim


@dataclass(frozen=True)
class PictureShardSet(ShardSet):
    """A set of labelled pictures, read as squares of one size."""

    framing: Framing


def verify(folder: Path, progress: Callable[[Sequence[ShardEntry]], Iterable[ShardEntry]] = iter) -> Manifest:
    """Read every byte of a shard set and compare with manifest and index; UserError naming every shard that differs.

    `progress` wraps the list of shards (for instance `tqdm.tqdm`).
    """
    manifest, damaged = Manifest.load(folder), []
    for entry in progress(manifest.shards):
        try:
            index_I = load_index(folder, entry)
            _check_presence(folder, entry, index_I, _refuse)
            check_shard(folder, entry, index_I)
        except UserError as error:
            damaged.append(str(error))
    if len(damaged) == 1:
        raise UserError(damaged[0])
    if damaged:
        listed = "\n".join(damaged)
        raise UserError(f"{len(damaged)} of {len(manifest.shards)} shards in '{folder}' are damaged:\n{listed}")
    return ShardSet.open(folder).manifest


def _check_box_counts(folder: Path, manifest: Manifest, index_I: NDArray[np.void]) -> None:
    found = (int(index_I["num_boxes"].min()), int(index_I["num_boxes"].max()))
    if found != (manifest.min_boxes, manifest.max_boxes):
        raise UserError(
            f"the manifest in '{folder}' says {manifest.min_boxes} to {manifest.max_boxes} boxes per image, "
            f"the indexes say {found[0]} to {found[1]}; it was edited"
        )


def _check_room(address: str, manifest: Manifest, room: int) -> None:
    largest = sorted((entry.bytes for entry in manifest.shards), reverse=True)[:MOST_PLANNED]
    if sum(largest) > room:
        raise UserError(
            f"--data.cache_gb is {room / 1e9:g}; the {len(largest)} shards of '{address}' that are planned at a time"
            f" take up to {math.ceil(sum(largest) / 1e6) / 1e3:g}: give as many, or write smaller shards."
        )


def _refuse(sentence: str) -> None:
    raise UserError(f"{sentence} Copy it again.")


def _check_presence(folder: Path, entry: ShardEntry, index_I: NDArray[np.void], on_cut: OnCut) -> None:
    path = folder / entry.file
    if not path.is_file():
        raise UserError(f"shard {path} is missing, the manifest lists it; copy it again or write the shards again")
    found = path.stat().st_size
    if found == entry.bytes:
        return
    sentence = f"shard {path} has {found} bytes, the manifest says {entry.bytes}: it was cut or replaced."
    lost_I = np.flatnonzero(_ends(index_I) > found)
    if len(lost_I):
        sentence += f" {len(lost_I)} of its {len(index_I)} samples are cut off, the first is number {lost_I[0]}."
    (on_cut if found < entry.bytes else _refuse)(sentence)


def _ends(index_I: NDArray[np.void]) -> NDArray[np.int64]:
    """Where the last member of each image ends in its shard."""
    return np.max([index_I[f"{kind}_offset"] + index_I[f"{kind}_size"] for kind in MEMBERS], axis=0)
