"""Writing a shard set: images in, a folder of tar files, indexes and a manifest out, or nothing at all."""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from adaptive_ft.data.format.manifest import FORMAT_VERSION, Manifest, ShardEntry, ShardInfo, answer_table_hash
from adaptive_ft.data.format.tokenizer_files import TOKENIZER, copy_tokenizer, tokenizer_hashes
from adaptive_ft.data.records import ImageRecord, PendingImage, told
from adaptive_ft.data.writing.bad_images import BadImages, StopAtBadImage
from adaptive_ft.data.writing.shard_part import (
    SET_FOLDER,
    SHARD_FILES,
    ImageShape,
    Read,
    ShardPart,
    ShardWork,
    count_whole,
)
from adaptive_ft.data.writing.shard_workers import workers
from adaptive_ft.data.writing.unfinished import check_free, growing_beside
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import flush

logger = logging.getLogger(__name__)

IMAGES_PER_SHARD = 1000  # 148 MB at 36 x 2048 float16


def as_it_is(record: ImageRecord) -> ImageRecord:
    """How an image is read that is a record already."""
    return record


def no_progress(images: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Writing:
    """How a set is written, whatever is in it.

    `plan` is, in terms of JSON, everything that the shards follow from: a run with the same one keeps the whole shards
    of an interrupted run. None begins anew. `processes` above one are started by multiprocessing's "spawn", and images
    and `read` must be able to travel there. `verify` reads every byte back before the set gets its name. `progress` is
    told how many more images are done.
    """

    processes: int = 1
    plan: dict[str, Any] | None = None
    verify: bool = False
    bad: BadImages = field(default_factory=StopAtBadImage)
    progress: Callable[[int], object] = no_progress


def write_shards(
    images: Iterable[PendingImage],
    folder: Path,
    info: ShardInfo,
    *,
    images_per_shard: int = IMAGES_PER_SHARD,
    read: Read = as_it_is,
    how: Writing | None = None,
) -> Manifest:
    """Read and check every image and write them all to `folder`, which must be new or empty.

    Everything grows in `<folder>.unfinished`, and is renamed at the end: an interrupted run leaves nothing that looks
    whole. Equal images, `info` and cut give equal bytes, with any number of processes. An image that is left out as bad
    makes its shard shorter. Raises UserError for a folder that is not empty, a bad image (unless `how` leaves those
    out), ids that repeat, or no image at all.
    """
    how = how or Writing()
    for name, number in (("images_per_shard", images_per_shard), ("processes", how.processes)):
        if number < 1:
            raise UserError(f"{name} is {number}; it must be at least one")
    folder = folder.resolve()
    check_free(folder)
    with growing_beside(folder, SHARD_FILES, how.plan) as unfinished, _kept_if_resumable(unfinished, how):
        (unfinished / SET_FOLDER).mkdir(exist_ok=True)
        work = ShardWork(unfinished, info, read)
        cut = _cut(_told_apart(images), images_per_shard)
        manifest = _write_all(work, cut, how)
        if isinstance(info.tokenizer, Path):
            copy_tokenizer(info.tokenizer, unfinished / SET_FOLDER)
        manifest.save(unfinished / SET_FOLDER)
        flush(unfinished / SET_FOLDER)
        (unfinished / SET_FOLDER).replace(folder)
        flush(folder.parent)
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


@contextmanager
def _kept_if_resumable(unfinished: Path, how: Writing) -> Iterator[None]:
    """After an error whole shards stay where the same command can go on; without any nothing does."""
    try:
        yield
    except BaseException:
        kept = count_whole(unfinished) if how.plan is not None else 0
        if kept:
            logger.warning("%d whole shards are kept in '%s': the same command goes on there.", kept, unfinished)
        else:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write_all(work: ShardWork, cut: Iterable[Iterable[PendingImage]], how: Writing) -> Manifest:
    """Write what is missing, in this process or in others, and gather what the manifest says about all."""
    gathered = _Gathered(how)
    if how.processes == 1:
        for number, images in enumerate(cut):
            gathered.add(work.write(number, images, gathered.shape))
        for entry in gathered.finish():
            if how.verify:
                work.verify(entry)
        return gathered.manifest(work.info)
    with workers(how.processes, work) as pool:
        for part in pool.run(ShardWork.write, _handed_out(work, cut)):
            gathered.add(part)
        entries = gathered.finish()
        if how.verify:
            deque(pool.run(ShardWork.verify, ((entry,) for entry in entries)), maxlen=0)
    return gathered.manifest(work.info)


def _handed_out(
    work: ShardWork, cut: Iterable[Iterable[PendingImage]]
) -> Iterator[tuple[int, list[PendingImage], ImageShape | None]]:
    """The arguments of each call of ShardWork.write; the shape is known before the first image is written."""
    shape = None
    for number, images in enumerate(cut):
        listed = list(images)
        shape = shape or work.shape_of_first(listed)
        yield number, listed, shape


def _cut(images: Iterable[PendingImage], images_per_shard: int) -> Iterator[Iterator[PendingImage]]:
    """The images of one shard after the other, each to be used up before the next is drawn."""
    drawn = iter(images)
    for first in drawn:
        yield chain([first], islice(drawn, images_per_shard - 1))


def _told_apart(images: Iterable[PendingImage]) -> Iterator[PendingImage]:
    """The images; UserError where an image comes twice, or a question is asked about two."""
    image_ids: set[str] = set()
    question_ids: set[int] = set()
    for image in images:
        if image.image_id in image_ids:
            raise UserError(
                f"{told(image)} comes twice; a set has it once, with all its questions: name all its question files"
                " in one adaptive-ft shards"
            )
        image_ids.add(image.image_id)
        own = {question.question_id for question in image.questions}
        for number in sorted(own & question_ids):
            raise UserError(f"{told(image)}: question {number} was asked about an earlier image too")
        question_ids |= own
        yield image


class _Gathered:
    """What the manifest says about all shards, taken from one part after the other."""

    def __init__(self, how: Writing) -> None:
        self._how, self._parts = how, list[ShardPart]()
        self._entries: list[ShardEntry] = []

    @property
    def shape(self) -> ImageShape | None:
        """The shape of the images so far."""
        return self._parts[-1].shape if self._parts else None

    def add(self, part: ShardPart) -> None:
        for sentence in part.bad:
            self._how.bad.met(sentence)
        self._parts.append(part)
        self._how.progress(part.images)

    def finish(self) -> list[ShardEntry]:
        """The shards, once all are there; UserError if there is none, or too many images were bad."""
        self._how.bad.finish(sum(part.images for part in self._parts))
        self._entries = [part.entry for part in self._parts if part.entry is not None]
        if not self._entries:
            raise UserError("no image with questions came from the source; nothing was written")
        return self._entries

    def manifest(self, info: ShardInfo) -> Manifest:
        files = tokenizer_hashes(info.tokenizer) if isinstance(info.tokenizer, Path) else {}
        entries, whole = self._entries, [part for part in self._parts if part.entry is not None]
        return Manifest(
            format_version=FORMAT_VERSION,
            created_with=f"adaptive-ft {version('adaptive-ft')}",
            split=info.split,
            domain=info.domain,
            answered=info.answered,
            images=sum(entry.images for entry in entries),
            questions=sum(entry.questions for entry in entries),
            feature_extractor=info.feature_extractor,
            feature_dim=self.shape.feature_dim if self.shape else 0,
            feature_dtype=info.feature_dtype,
            min_boxes=min(part.min_boxes for part in whole),
            max_boxes=max(part.max_boxes for part in whole),
            box_convention=info.box_convention,
            tokenizer=TOKENIZER if files else cast(str | None, info.tokenizer),
            tokenizer_files=files,
            answer_table_sha256=answer_table_hash(info.answer_table),
            answer_table=tuple(info.answer_table),
            shards=tuple(entries),
            content=info.content,
        )
