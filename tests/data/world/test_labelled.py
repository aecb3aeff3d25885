"""Generated pictures to classify: repeatable, labelled rightly, and shifted between the domains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_ft.data.pixels import decode_rgb
from adaptive_ft.data.shard_set import verify
from adaptive_ft.data.world.attributes import HELD_OUT_PAIRS
from adaptive_ft.data.world.config import SPLITS, WorldConfig
from adaptive_ft.data.world.generate import generate_world
from adaptive_ft.data.world.labelled import CLASSES, PICTURE_SIZE, PicturesConfig, generate_pictures, make_picture
from adaptive_ft.data.world.pictures import LOOKS
from adaptive_ft.errors import UserError

SMALL = PicturesConfig(
    source_train_images=12, source_val_images=5, target_train_images=6, target_val_images=4, images_per_shard=5
)
NEW = {f"{color} {shape}" for color, shape in HELD_OUT_PAIRS}


def label_of(split: int, number: int) -> str:
    (question,) = make_picture(SMALL, SPLITS[split], number).questions
    (label,) = question.scores
    return label


def test_equal_configs_give_equal_shards_and_are_made_once(tmp_path: Path) -> None:
    first = generate_pictures(tmp_path / "a", SMALL)
    assert first == generate_pictures(tmp_path / "b", SMALL)
    assert first == generate_pictures(tmp_path / "a", SMALL)
    assert {name: manifest.images for name, manifest in first.items()} == {
        "source/train": 12, "source/val": 5, "target/train": 6, "target/val": 4,
    }  # fmt: skip
    for name in first:
        assert verify(tmp_path / "a" / name).answer_table == CLASSES


def test_only_the_target_domain_shows_new_pairs() -> None:
    source = {label_of(0, number) for number in range(200)}
    target = [label_of(2, number) for number in range(200)]
    assert not source & NEW
    assert 0.4 < sum(label in NEW for label in target) / len(target) < 0.75


@pytest.mark.parametrize("split", [0, 2])
def test_the_colour_in_the_middle_is_the_labels(split: int) -> None:
    """Of every picture's palette colours the label's is the nearest to what lies at the thing's place."""
    palette = LOOKS[SPLITS[split].domain].palette
    right = 0
    for number in range(40):
        record = make_picture(SMALL, SPLITS[split], number)
        assert record.picture is not None
        pixels = np.asarray(decode_rgb(record.picture), dtype=float)
        assert pixels.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
        ground = np.median(pixels, axis=(0, 1))
        far = np.linalg.norm(pixels - ground, axis=2)
        thing = np.median(pixels[far > 0.8 * np.quantile(far, 0.99)], axis=0)
        nearest = min(palette, key=lambda color: float(np.linalg.norm(thing - palette[color])))
        right += nearest == label_of(split, number).split()[0]
    assert right >= 36


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_val_images": 0}, "target_val_images is 0"),
        ({"new_pair_share": 1.5}, "new_pair_share is 1.5"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"images_per_shard": 0}, "images_per_shard 1 or more"),
    ],
)
def test_impossible_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PicturesConfig(**changes)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    generate_world(tmp_path / "world", WorldConfig.small())
    with pytest.raises(UserError, match="holds a world of another config"):
        generate_pictures(tmp_path / "world", SMALL)
