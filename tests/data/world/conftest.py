"""One small world, its scenes and its records, shared by the tests of the embedded world."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.world import WorldConfig, generate_world
from adaptive_ft.data.world.attributes import Scene
from adaptive_ft.data.world.config import WORLD_SPLITS
from adaptive_ft.data.world.generate import make_record
from adaptive_ft.data.world.priors import split_priors

CONFIG = WorldConfig(
    seed=3,
    source_train_images=80,
    source_val_images=10,
    target_train_images=80,
    target_val_images=80,
    target_val_indomain_images=80,
)


@dataclass(frozen=True)
class Written:
    """A small world on disk."""

    folder: Path
    config: WorldConfig
    manifests: dict[str, Manifest]


@pytest.fixture(scope="session")
def made() -> dict[str, list[tuple[Scene, ImageRecord]]]:
    """Scenes with their records by split, enough of them to count answers."""
    return {
        split.name: [
            make_record(CONFIG, split, number, split_priors(CONFIG, split))
            for number in range(split.num_images(CONFIG))
        ]
        for split in WORLD_SPLITS
    }


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A small world written once."""
    folder, config = tmp_path_factory.mktemp("worlds") / "world", WorldConfig.small()
    return Written(folder, config, generate_world(folder, config))
