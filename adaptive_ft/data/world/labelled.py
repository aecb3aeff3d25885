"""Generated pictures to classify: one thing each, its label colour and shape, in the world's two domains.

The source domain is for pretraining. A target picture lies somewhere on the way from the source's look to another one,
so that some inputs are like those of pretraining and others are not; its things are smaller and further off the middle,
and some show a pair of colour and shape that the source never does. Those classes are in the table of both domains, so
that one answer head serves both. Classes are equally frequent in the source domain; in the target domain they stand
in an order, which turns round between training and validation.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adaptive_ft.data.format.manifest import LABELLED_PICTURES, Manifest, ShardInfo
from adaptive_ft.data.records import ImageRecord, labelled_picture
from adaptive_ft.data.world.attributes import ALL_PAIRS, NEW_PAIRS, SOURCE_PAIRS, WorldObject
from adaptive_ft.data.world.config import IMAGE_ID_SPACE, SPLITS, Split
from adaptive_ft.data.world.generate import WORLD_FILE, WORLD_FILES, Progress, holds_world, no_progress
from adaptive_ft.data.world.pictures import LOOKS, encode_png, look_between, paint_things
from adaptive_ft.data.world.priors import Priors
from adaptive_ft.data.world.scenes import MAX_TURN
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.data.writing.unfinished import begin_beside
from adaptive_ft.errors import UserError

PICTURES_VERSION = 3
"""Counted up whenever the same config gives other pictures."""

PICTURE_SIZE = 40
OFF_MIDDLE = {"source": 5.0, "target": 8.0}
"""Pixels, across and down, that a thing's middle may lie off the picture's."""

SMALL_SHARE = {"source": 0.5, "target": 0.7}
"""Share of small things; the others are large."""

CLASSES = tuple(f"{color} {shape}" for color, shape in ALL_PAIRS)
_PAIR_OF = dict(zip(CLASSES, ALL_PAIRS, strict=True))
_SOURCE_CLASSES = tuple(f"{color} {shape}" for color, shape in SOURCE_PAIRS)
_NEW_CLASSES = tuple(f"{color} {shape}" for color, shape in NEW_PAIRS)
_PRIOR_STREAM = 99
"""Keeps the drawing of the order of classes apart from the drawing of the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesConfig:
    """Sizes of the four splits; equal configs give equal pictures, byte by byte."""

    seed: int = 0
    """Seed of everything that is drawn."""
    source_train_images: int = 5000
    """Pictures to pretrain on."""
    source_val_images: int = 400
    """Held-out pictures of the source domain."""
    target_train_images: int = 300
    """Pictures to fine-tune on; few, so that overfitting can be seen."""
    target_val_images: int = 400
    """Held-out pictures of the target domain."""
    look_shift: float = 0.5
    """Target domain: pictures lie 0 to this share of the way from the source's look to a dark, striped, noisier one."""
    new_pair_share: float = 0.2
    """Target domain: share of things with a colour and shape that the source domain never shows together."""
    prior_ratio: float = 0.95
    """Target domain: how much rarer each class is than the next more frequent one."""
    images_per_shard: int = 500
    """Pictures per tar file."""

    def __post_init__(self) -> None:
        """Refuse sizes of which no pictures can be made."""
        for split in SPLITS:
            if not 1 <= (images := split.num_images(self)) < IMAGE_ID_SPACE:
                raise UserError(f"pictures: {split.images_option} is {images}; use 1 to {IMAGE_ID_SPACE - 1}.")
        for name, low in (("look_shift", 0), ("new_pair_share", 0), ("prior_ratio", 0.05)):
            if not low <= getattr(self, name) <= 1:
                raise UserError(f"pictures: {name} is {getattr(self, name)}; use {low} to 1.")
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


def class_priors(config: PicturesConfig, split: Split) -> Priors:
    """How frequent the classes are in a split: all alike in the source domain."""
    if split.domain == "source":
        return Priors((CLASSES,), 1.0)
    order = np.random.default_rng([config.seed, _PRIOR_STREAM]).permutation(len(CLASSES))
    step = -1 if split.turns_priors else 1
    return Priors((tuple(CLASSES[place] for place in order[::step]),), config.prior_ratio)


def make_picture(config: PicturesConfig, split: Split, number: int, priors: Priors) -> ImageRecord:
    """Picture `number` of a split, drawn from a random stream of its own."""
    rng = np.random.default_rng([config.seed, split.number, number])
    label, look = _draw_label(config, split, priors, rng), LOOKS["source"]
    if split.domain == "target":
        look = look_between(look, LOOKS["target"], config.look_shift * float(rng.random()))
    color, shape = _PAIR_OF[label]
    size = "small" if rng.random() < SMALL_SHARE[split.domain] else "large"
    off = OFF_MIDDLE[split.domain]
    x, y = (float(PICTURE_SIZE / 2 + by) for by in rng.uniform(-off, off, size=2))
    thing = WorldObject(shape, color, size, x, y, float(rng.uniform(-MAX_TURN, MAX_TURN)))
    picture = paint_things([thing], look, PICTURE_SIZE, rng)
    image_id = f"{split.domain}-{split.part}-{number:06d}"
    question_id = split.number * IMAGE_ID_SPACE + number
    return labelled_picture(image_id, question_id, label, encode_png(picture), picture.size)


def _draw_label(config: PicturesConfig, split: Split, priors: Priors, rng: np.random.Generator) -> str:
    """A class that the split's domain may show."""
    if split.domain == "source":
        return priors.draw_answer(0, _SOURCE_CLASSES, rng)
    return priors.draw_answer(0, _NEW_CLASSES if rng.random() < config.new_pair_share else CLASSES, rng)


def _write_split(place: Path, config: PicturesConfig, split: Split, progress: Progress) -> Manifest:
    """Write one split's shards to place/domain/part."""
    info = ShardInfo(
        split=split.part,
        domain=split.domain,
        feature_extractor="none",
        answer_table=CLASSES,
        content=LABELLED_PICTURES,
    )
    total, priors = split.num_images(config), class_priors(config, split)

    def counted() -> Iterator[ImageRecord]:
        for number in range(total):
            yield make_picture(config, split, number, priors)
            progress(split.name, number + 1, total)

    return write_shards(counted(), place / split.name, info, images_per_shard=config.images_per_shard)
