"""Writing a shard set: records in, a folder of tar files, indexes and a manifest out, or nothing at all."""

import re
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from adaptive_ft.data.manifest import (
    FORMAT_VERSION,
    LABELLED_PICTURES,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    ShardInfo,
    answer_table_hash,
)
from adaptive_ft.data.records import ImageRecord, told, validate_labelled_picture, validate_record
from adaptive_ft.data.shard_tar import ShardTar
from adaptive_ft.data.unfinished import begin_beside
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import flush

IMAGES_PER_SHARD = 1000  # 148 MB at 36 x 2048 float16
SHARD_FILES = re.compile(rf"shard-\d+\.(tar|index\.npy)|{re.escape(MANIFEST_NAME)}(\.tmp)?")


def write_shards(
    records: Iterable[ImageRecord], folder: Path, info: ShardInfo, *, images_per_shard: int = IMAGES_PER_SHARD
) -> Manifest:
    """Check every record and write them all to `folder`, which must be new or empty.

    Everything grows in `<folder>.unfinished`, which is renamed at the end: an interrupted run leaves nothing
    that looks whole, and the next one starts over. Equal records and `info` give equal bytes. Raises
    UserError for a folder in use, an invalid record, ids that repeat, or no record at all.
    """
    if images_per_shard < 1:
        raise UserError(f"images_per_shard is {images_per_shard}; a shard needs at least one image")
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' is in use; give a new or empty folder, or remove it first")
    unfinished = begin_beside(folder, SHARD_FILES)
    writer = _SetWriter(unfinished, info, images_per_shard)
    try:
        for record in records:
            writer.add(record)
        manifest = writer.finish()
        manifest.save(unfinished)
        flush(unfinished)
        unfinished.replace(folder)
        flush(folder.parent)
    except BaseException:
        writer.abandon()
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


class _SetWriter:
    """Cuts a stream of records into shards and gathers what the manifest says about all of them."""

    def __init__(self, folder: Path, info: ShardInfo, images_per_shard: int) -> None:
        self._folder, self._info, self._images_per_shard = folder, info, images_per_shard
        self._shard: ShardTar | None = None
        self._entries: list[ShardEntry] = []
        self._image_ids: set[str] = set()
        self._question_ids: set[int] = set()
        self._box_counts: set[int] = set()
        self._feature_dim: int | None = None

    def add(self, record: ImageRecord) -> None:
        validate_record(record, answered=self._info.answered)
        if self._info.content == LABELLED_PICTURES:
            validate_labelled_picture(record, self._info.answer_table)
        self._check_against_others(record)
        if self._shard is None:
            path = self._folder / f"shard-{len(self._entries):05d}.tar"
            self._shard = ShardTar(path, self._info.feature_dtype)
        self._shard.add(record)
        if self._shard.num_images == self._images_per_shard:
            self._close_shard()

    def _check_against_others(self, record: ImageRecord) -> None:
        place = told(record)
        if record.image_id in self._image_ids:
            raise UserError(f"{place} comes twice; give all its questions in one record")
        for question in record.questions:
            if question.question_id in self._question_ids:
                raise UserError(f"{place}: question {question.question_id} was asked about an earlier image too")
            self._question_ids.add(question.question_id)
        if self._box_counts and (0 in self._box_counts) != (len(record.boxes) == 0):
            raise UserError(f"{place} has {len(record.boxes)} regions; all images of a shard set have some, or none")
        feature_dim = record.features.shape[1]
        if self._feature_dim not in (None, feature_dim):
            raise UserError(f"{place} has features of size {feature_dim}, the images before {self._feature_dim}")
        self._image_ids.add(record.image_id)
        self._box_counts.add(len(record.boxes))
        self._feature_dim = feature_dim

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._entries.append(self._shard.finish())
            self._shard = None

    def abandon(self) -> None:
        if self._shard is not None:
            self._shard.abandon()

    def finish(self) -> Manifest:
        self._close_shard()
        if not self._entries:
            raise UserError("no image with questions came from the source; nothing was written")
        return Manifest(
            format_version=FORMAT_VERSION,
            created_with=f"adaptive-ft {version('adaptive-ft')}",
            split=self._info.split,
            domain=self._info.domain,
            answered=self._info.answered,
            images=sum(entry.images for entry in self._entries),
            questions=sum(entry.questions for entry in self._entries),
            feature_extractor=self._info.feature_extractor,
            feature_dim=self._feature_dim or 0,
            feature_dtype=self._info.feature_dtype,
            min_boxes=min(self._box_counts),
            max_boxes=max(self._box_counts),
            box_convention=self._info.box_convention,
            tokenizer=self._info.tokenizer,
            answer_table_sha256=answer_table_hash(self._info.answer_table),
            answer_table=tuple(self._info.answer_table),
            shards=tuple(self._entries),
            content=self._info.content,
        )
