"""Generated pictures to classify: one thing each, its label colour and shape, in the world's two domains.

The source domain is for pretraining. The target domain looks different and shows pairs of colour and shape that the
source never does: their classes are in the table of both, so that one answer head serves both.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adaptive_ft.data.manifest import LABELLED_PICTURES, Manifest, ShardInfo
from adaptive_ft.data.records import ImageRecord, labelled_picture
from adaptive_ft.data.shards import write_shards
from adaptive_ft.data.unfinished import begin_beside
from adaptive_ft.data.world.attributes import ALL_PAIRS, IMAGE_SIZE, SIZES, Scene, WorldObject
from adaptive_ft.data.world.config import IMAGE_ID_SPACE, SPLITS, Split
from adaptive_ft.data.world.generate import WORLD_FILE, WORLD_FILES, Progress, holds_world, no_progress
from adaptive_ft.data.world.pictures import encode_png, paint
from adaptive_ft.data.world.scenes import MAX_TURN, draw_pair
from adaptive_ft.errors import UserError

PICTURES_VERSION = 1
"""Counted up whenever the same config gives other pictures."""

PICTURE_SIZE = 48
OFF_MIDDLE = 8.0
"""Pixels, across and down, that a thing's middle may lie off the picture's."""

CLASSES = tuple(f"{color} {shape}" for color, shape in ALL_PAIRS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesConfig:
    """Sizes of the four splits; equal configs give equal pictures, byte by byte."""

    seed: int = 0
    """Seed of everything that is drawn."""
    source_train_images: int = 6000
    """Pictures to pretrain on."""
    source_val_images: int = 400
    """Held-out pictures of the source domain."""
    target_train_images: int = 400
    """Pictures to fine-tune on."""
    target_val_images: int = 400
    """Held-out pictures of the target domain."""
    new_pair_share: float = 0.5
    """Target domain: share of things with a colour and shape that the source domain never shows together."""
    images_per_shard: int = 500
    """Pictures per tar file."""

    def __post_init__(self) -> None:
        """Refuse sizes of which no pictures can be made."""
        for split in SPLITS:
            if not 1 <= split.num_images(self) < IMAGE_ID_SPACE:
                raise UserError(
                    f"pictures: {split.domain}_{split.part}_images is {split.num_images(self)}; use 1 to"
                    f" {IMAGE_ID_SPACE - 1}."
                )
        if not 0 <= self.new_pair_share <= 1:
            raise UserError(f"pictures: new_pair_share is {self.new_pair_share}; use 0 to 1.")
        if self.seed < 0 or self.images_per_shard < 1:
            raise UserError("pictures: seed must be 0 or more, and images_per_shard 1 or more.")


def generate_pictures(folder: Path, config: PicturesConfig, progress: Progress = no_progress) -> dict[str, Manifest]:
    """Write the pictures of `config` to `folder`, or open them if they are there; manifests by split name.

    They grow beside `folder` and are moved there in one step. Raises UserError when `folder` holds anything else.
    """
    folder = folder.resolve()
    description = {"version": PICTURES_VERSION, "pictures": asdict(config)}
    if holds_world(folder, description):
        return {split.name: Manifest.load(folder / split.name) for split in SPLITS}
    unfinished = begin_beside(folder, WORLD_FILES)
    manifests = {split.name: _write_split(unfinished, config, split, progress) for split in SPLITS}
    (unfinished / WORLD_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder)
    return manifests


def make_picture(config: PicturesConfig, split: Split, number: int) -> ImageRecord:
    """Picture `number` of a split, drawn from a random stream of its own."""
    rng = np.random.default_rng([config.seed, split.number, number])
    color, shape = draw_pair(split.domain, config.new_pair_share, rng)
    x, y = (float(IMAGE_SIZE / 2 + off) for off in rng.uniform(-OFF_MIDDLE, OFF_MIDDLE, size=2))
    thing = WorldObject(shape, color, str(rng.choice(SIZES)), x, y, float(rng.uniform(-MAX_TURN, MAX_TURN)))
    low, high = (IMAGE_SIZE - PICTURE_SIZE) // 2, (IMAGE_SIZE + PICTURE_SIZE) // 2
    picture = paint(Scene(split.domain, (thing,)), rng).crop((low, low, high, high))
    return labelled_picture(
        f"{split.domain}-{split.part}-{number:06d}",
        split.number * IMAGE_ID_SPACE + number,
        f"{color} {shape}",
        encode_png(picture),
        picture.size,
    )


def _write_split(place: Path, config: PicturesConfig, split: Split, progress: Progress) -> Manifest:
    """Write one split's shards to place/domain/part."""
    info = ShardInfo(
        split=split.part,
        domain=split.domain,
        feature_extractor="none",
        answer_table=CLASSES,
        content=LABELLED_PICTURES,
    )
    total = split.num_images(config)

    def counted() -> Iterator[ImageRecord]:
        for number in range(total):
            yield make_picture(config, split, number)
            progress(split.name, number + 1, total)

    return write_shards(counted(), place / split.name, info, images_per_shard=config.images_per_shard)
