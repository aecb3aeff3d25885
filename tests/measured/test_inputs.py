"""What is varied: pixels of pictures that are spread over the shards."""

from pathlib import Path

import torch

from adaptive_ft.data.pixels import Framing
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.world.labelled import PicturesConfig, generate_pictures
from adaptive_ft.measured.inputs import read_examples, varied_inputs

SMALL = PicturesConfig(
    source_train_images=2, source_val_images=2, target_train_images=2, target_val_images=11, images_per_shard=4
)


def test_pictures_are_spread_over_the_shards_and_lie_between_0_and_1(tmp_path: Path) -> None:
    generate_pictures(tmp_path / "pictures", SMALL)
    shards = open_set(str(tmp_path / "pictures/target/val"), DataConfig()).with_pictures(Framing(24))
    whole, some = (varied_inputs(read_examples(shards, count)) for count in (500, 3))
    assert whole.shape == (11, 3, 24, 24)
    assert torch.equal(some, whole[[1, 5, 9]])
    assert 0 <= whole.min() < 0.3 < 0.7 < whole.max() <= 1
