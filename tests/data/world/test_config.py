"""WorldConfig refuses what makes no world, naming the option and its value."""

from dataclasses import replace

import pytest

from adaptive_ft.data.world import WorldConfig
from adaptive_ft.errors import UserError


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("source_train_images", 0),
        ("target_val_images", 1_000_000),
        ("questions_per_image", 1),
        ("questions_per_image", 9),
        ("num_regions", 7),
        ("prior_ratio", 0.0),
        ("new_pair_share", 1.5),
        ("disagreement", 0.5),
        ("images_per_shard", 0),
        ("seed", -1),
    ],
)
def test_bad_sizes_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        replace(WorldConfig(), **{option: value})  # type: ignore[arg-type]
