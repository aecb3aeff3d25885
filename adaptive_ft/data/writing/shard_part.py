"""One shard of a set that grows: written by one process, and whole from the moment its record is there.

In `<set>.unfinished` a shard lies in `set/` and its record beside that folder; while it is written it lies in a folder
of its own. A shard without a record is none, and is written again.
"""

import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_ft.data.format.manifest import LABELLED_PICTURES, MANIFEST_NAME, ShardEntry, ShardInfo
from adaptive_ft.data.format.shard_index import load_index
from adaptive_ft.data.format.shard_scan import check_shard
from adaptive_ft.data.format.tokenizer_files import TOKENIZER
from adaptive_ft.data.records import ImageRecord, PendingImage, told, validate_labelled_picture, validate_record
from adaptive_ft.data.writing.shard_tar import ShardTar, members_of
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import flush, left_by_kill_pattern, write_whole

SET_FOLDER = "set"
_WRITING = ".writing"
_MANIFEST, _RECORD = re.escape(MANIFEST_NAME), r"(shard-\d+|plan)\.json"
# All that writing a set leaves, as seen from its unfinished folder.
SHARD_FILES = re.compile(
    rf"({SET_FOLDER}/|shard-\d+\{_WRITING}/)?shard-\d+\.(tar|index\.npy)"
    rf"|({SET_FOLDER}/)?({_MANIFEST}|{left_by_kill_pattern(_MANIFEST)})"
    rf"|({SET_FOLDER}/)?{TOKENIZER}/[^/]+"
    rf"|{_RECORD}|{left_by_kill_pattern(_RECORD)}"
)


Read = Callable[[Any], ImageRecord]
"""Makes the record of a pending image; UserError if it is bad. It travels to worker processes."""


@dataclass(frozen=True, slots=True)
class ImageShape:
    """In what all images of a set agree: the size of a feature (0 without regions)."""

    feature_dim: int
    has_regions: bool

    @classmethod
    def of(cls, record: ImageRecord) -> "ImageShape":
        """The shape of one image."""
        return cls(record.features.shape[1], len(record.boxes) > 0)

    def check(self, record: ImageRecord) -> None:
        """UserError naming a record of another shape."""
        if (len(record.boxes) > 0) != self.has_regions:
            raise UserError(
                f"{told(record)} has {len(record.boxes)} regions; all images of a shard set have some, or none"
            )
        if record.features.shape[1] != self.feature_dim:
            raise UserError(
                f"{told(record)} has features of size {record.features.shape[1]}, the images before {self.feature_dim}"
            )


@dataclass(frozen=True, slots=True)
class ShardPart:
    """A written shard: its entry (none where every image was bad), its box counts, and its bad images in sentences."""

    entry: ShardEntry | None
    shape: ImageShape | None
    min_boxes: int
    max_boxes: int
    bad: tuple[str, ...]

    @property
    def images(self) -> int:
        """Images that were to be in it, good and bad."""
        return (self.entry.images if self.entry else 0) + len(self.bad)

    @classmethod
    def load(cls, folder: Path, number: int) -> "ShardPart | None":
        """The part that is recorded as whole in the unfinished `folder`, or None if there is no such one."""
        try:
            content = json.loads(_record(folder, number).read_text(encoding="utf-8"))
            entry, shape = ShardEntry(**content["entry"]), ImageShape(**content["shape"])
            whole = (folder / SET_FOLDER / entry.file).stat().st_size == entry.bytes
        except (OSError, ValueError):
            return None
        return cls(**{**content, "entry": entry, "shape": shape, "bad": ()}) if whole else None


@dataclass(frozen=True)
class ShardWork:
    """What every process that writes shards of a set knows: the unfinished folder, the set, and how images are read."""

    folder: Path
    info: ShardInfo
    read: Read

    def record(self, image: PendingImage) -> ImageRecord:
        """A pending image read and checked by itself; UserError if it is bad."""
        record = self.read(image)
        validate_record(record, answered=self.info.answered)
        if self.info.content == LABELLED_PICTURES:
            validate_labelled_picture(record, self.info.answer_table)
        return record

    def shape_of_first(self, images: Iterable[PendingImage]) -> ImageShape | None:
        """The shape of the first image that is good and can be stored, which all others must have."""
        for image in images:
            try:
                record = self.record(image)
                members_of(record, self.info.feature_dtype)
                return ImageShape.of(record)
            except UserError:
                continue
        return None

    def write(self, number: int, images: Iterable[PendingImage], shape: ImageShape | None) -> ShardPart:
        """Write shard `number` of the good ones among `images`, unless it is there: one in memory at a time.

        `shape` is that of the images before, None for the first. What iterating over `images` raises passes through.
        """
        part = ShardPart.load(self.folder, number)
        # Where the first image was left out as bad and is mended now, another one gives the shape.
        if part is not None and shape in (None, part.shape):
            deque(images, maxlen=0)
            return part
        place = self.folder / f"shard-{number:05d}{_WRITING}"
        shutil.rmtree(place, ignore_errors=True)
        for left in (self.folder / SET_FOLDER).glob(f"shard-{number:05d}.*"):
            left.unlink()
        place.mkdir()
        tar = ShardTar(place / f"shard-{number:05d}.tar", self.info.feature_dtype)
        try:
            shape, bad = self._fill(tar, images, shape)
            entry = tar.finish()
        except OSError as error:
            tar.abandon()
            raise UserError(f"'{self.folder}' cannot be written to: {error.strerror or error}") from error
        except BaseException:
            tar.abandon()
            raise
        box_counts = load_index(place, entry)["num_boxes"] if entry.images else np.zeros(1)
        part = ShardPart(entry if entry.images else None, shape, int(box_counts.min()), int(box_counts.max()), bad)
        self._keep(number, place, part)
        return part

    def _fill(
        self, tar: ShardTar, images: Iterable[PendingImage], shape: ImageShape | None
    ) -> tuple[ImageShape | None, tuple[str, ...]]:
        """Add every good image; the shape of all, and the bad ones in sentences."""
        bad = []
        for image in images:
            try:
                record = self.record(image)
                own = ImageShape.of(record)
                (shape or own).check(record)
                tar.add(record)
                shape = shape or own
            except UserError as error:
                bad.append(str(error))
        return shape, tuple(bad)

    def _keep(self, number: int, place: Path, part: ShardPart) -> None:
        """Move a shard to the others; the record comes last, and only it makes the shard count.

        A shard that lacks bad images gets none: what is wrong with them may have been mended when it is gone on with.
        """
        if part.entry is not None:
            for name in (part.entry.file, part.entry.index_file):
                (place / name).replace(self.folder / SET_FOLDER / name)
            flush(self.folder / SET_FOLDER)
        shutil.rmtree(place)
        if not part.bad:
            write_whole(_record(self.folder, number), json.dumps(asdict(part), ensure_ascii=False) + "\n")

    def verify(self, entry: ShardEntry) -> None:
        """Read every byte of a written shard back; UserError if it is not what was written."""
        folder = self.folder / SET_FOLDER
        check_shard(folder, entry, load_index(folder, entry))


def count_whole(folder: Path) -> int:
    """How many whole shards lie in an unfinished folder."""
    return sum(ShardPart.load(folder, int(record.stem[6:])) is not None for record in folder.glob("shard-*.json"))


def _record(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"
