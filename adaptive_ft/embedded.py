"""The embedded run: what `train.py` needs when nobody names data or a model, made on first use and kept.

    data/world/                   generated shards of two domains and their tokenizer (data/world)
    data/base/                    a small LXMERT that this trainer pretrained on the source domain (standard strategy)

With real data and real weights these two are simply not asked for.
"""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from adaptive_ft.adapt import AdaptiveConfig
from adaptive_ft.build import build
from adaptive_ft.config import EMBEDDED_BASE, RunConfig
from adaptive_ft.data.choice import DataConfig
from adaptive_ft.data.manifest import Manifest
from adaptive_ft.data.world.config import WorldConfig
from adaptive_ft.data.world.generate import generate_world
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.models.loading import ModelConfig
from adaptive_ft.trainer import Trainer

WORLD = Path("data/world")
BASE = Path(EMBEDDED_BASE)


def prepare_embedded(config: RunConfig, ranks: Ranks) -> None:
    """Make the world and the base where `config` points at them and they are not there yet (collective)."""
    uses_world = Path(config.data.train).is_relative_to(WORLD)
    if uses_world and not (WORLD / "world.json").is_file():
        ranks.on_main(make_world)
    if uses_world and config.model.name == str(BASE) and not BASE.is_dir():
        if ranks.is_main:
            print(f"pretraining the base model on the source domain; it is kept in {BASE}", flush=True)
        Trainer(build(pretraining(config), ranks)).fit()


def make_world(folder: Path = WORLD, world: WorldConfig | None = None) -> dict[str, Manifest]:
    """Generate a world with a progress bar per split, or open an equal one that is there; manifests by split."""
    bars: dict[str, tqdm[NoReturn]] = {}

    def advance(split: str, done: int, total: int) -> None:
        if split not in bars:
            bars[split] = tqdm(desc=f"world {split}", total=total, unit="image")
        bars[split].update(done - bars[split].n)

    try:
        return generate_world(folder, world or WorldConfig(), progress=advance)
    finally:
        for bar in bars.values():
            bar.close()


def pretraining(config: RunConfig) -> RunConfig:
    """The run that makes the base: a small LXMERT from random weights, all tuned, on the source domain."""
    return replace(
        config,
        name=None,
        resume="none",
        output_dir=str(Path(config.output_dir) / "pretraining"),
        export_to=str(BASE),
        num_train_epochs=4,
        max_steps=None,
        eval_on_start=False,
        model=ModelConfig(
            hidden_size=96,
            num_attention_heads=4,
            intermediate_size=256,
            language_layers=2,
            region_layers=1,
            cross_layers=2,
            max_position_embeddings=32,
        ),
        adapt=AdaptiveConfig(strategy="standard"),
        data=DataConfig(train=str(WORLD / "source/train"), val=str(WORLD / "source/val")),
        optim=OptimConfig(learning_rate=1e-3, weight_decay=1e-2),
    )
