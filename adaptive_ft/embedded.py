"""The embedded run: what `train.py` does when nobody names data, with everything it needs made on first use and kept.

    data/world/     generated shards of two domains and their tokenizer (see data/world)
    data/base/      a small LXMERT that this trainer pretrained on the source domain (recipes/world_pretrain.yaml)
    data/pictures/  generated pictures to classify, in the same two domains
    data/vit/       a small ViT pretrained on those of the source domain (recipes/pictures_pretrain.yaml)

The run itself, adapting data/base to the target domain, is recipes/world.yaml. Other recipes do the same with other
bases (`PRETRAINING`), one of them on real questions, whose shards a person has made (docs/compare.md). Real data and
real weights take their place by name.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm
from transformers import CONFIG_NAME

from adaptive_ft.build import Run, build, choose_kernels
from adaptive_ft.checks import check_options
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.reading.choice import open_train_and_val
from adaptive_ft.data.world.config import WorldConfig
from adaptive_ft.data.world.generate import Progress, generate_world
from adaptive_ft.data.world.labelled import PicturesConfig, generate_pictures
from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.engine.preemption import StoppedOnRequest
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.same_run import why_not_resumed
from adaptive_ft.trainer import Trainer

WORLD = Path("data/world")
PICTURES = Path("data/pictures")
BASE = Path("data/base")
RECIPES = Path(__file__).resolve().parents[1] / "recipes"
# The bases this program makes itself, and the recipes of each: of several the later wins.
PRETRAINING: dict[str, tuple[str, ...]] = {
    str(BASE): ("world_pretrain.yaml",),
    "data/base_2": ("world_pretrain.yaml", "bases/second.yaml"),
    "data/base_3": ("world_pretrain.yaml", "bases/third.yaml"),
    "data/base_small": ("world_pretrain.yaml", "bases/small.yaml"),
    "data/base_vlbert": ("world_vlbert_pretrain.yaml",),
    "data/base_questions": ("questions_pretrain.yaml",),
    "data/vit": ("pictures_pretrain.yaml",),
}
NAMES_DATA = ("--config", "--data.train", "--data.val")


def with_embedded_recipe(arguments: Sequence[str]) -> list[str]:
    """The command line of the embedded run when `arguments` name neither data nor a config, else `arguments`."""
    if any(word.startswith(NAMES_DATA) for word in arguments):
        return list(arguments)
    return ["--config", str(RECIPES / "world.yaml"), *arguments]


def prepare_embedded(config: RunConfig, ranks: Ranks, watch: Watchdog | None = None) -> None:
    """Make generated data and the base where `config` points at them and they are not there yet, under `watch`
    (collective).

    Raises:
        UserError: options or shards that the run could not use after the minutes this takes.
    """
    name = config.model.name
    # Rank 0 looks for all: ranks that saw different things would wait for each other for ever.
    needs_base = name in PRETRAINING and not ranks.broadcast(is_made(Path(name)))
    if generated_place(config) is None and not needs_base:
        return
    ranks.together(lambda: check_options(config))
    ranks.together(lambda: choose_kernels(config, ranks.device.type))
    watch = watch or Watchdog(ranks, config.rank_timeout)
    watch.phase("generating data")
    _generate(config, ranks)
    if needs_base:
        ranks.together(lambda: open_train_and_val(config.data))
        _pretrain(config, ranks, watch)


def is_made(base: Path) -> bool:
    """Whether a base lies there; an export takes its name only when everything is in it."""
    return (base / CONFIG_NAME).is_file()


def generated_place(config: RunConfig) -> Path | None:
    """The folder of generated data that `config` trains on, None for other data."""
    return next((place for place in MAKERS if Path(config.data.train).is_relative_to(place)), None)


def _generate(config: RunConfig, ranks: Ranks) -> None:
    place = generated_place(config)
    if place is not None and not ranks.broadcast(place.is_dir()):
        ranks.on_main(MAKERS[place])


def pretraining_recipe(base: str) -> RunConfig:
    """The options that make a base of `PRETRAINING`, as its recipes have them."""
    return load_run_config([word for recipe in PRETRAINING[base] for word in ("--config", str(RECIPES / recipe))])


def begin_pretraining(config: RunConfig, world_size: int) -> RunConfig:
    """The run that makes the base of `config`, under the engine of `config`.

    The recipe's batch is that of all ranks together, so that an interrupted run goes on also on another number of
    ranks. Ranks that do not divide it take the next smaller one that they do, at least an example each: another run.
    """
    base = pretraining_recipe(str(config.model.name))
    base.ds_config, base.kernels, base.stop_file = config.ds_config, config.kernels, config.stop_file
    batch = base.per_device_train_batch_size
    base.per_device_train_batch_size = max(1, batch // world_size)
    base.resume = "auto"
    print(f"pretraining the base model on the source domain; it is kept in {base.export_to}", flush=True)
    if batch % world_size:
        taken = base.per_device_train_batch_size * world_size
        print(f"{world_size} ranks cannot share a batch of {batch}: this pretraining takes {taken}", flush=True)
    return base


def _pretrain(config: RunConfig, ranks: Ranks, watch: Watchdog) -> None:
    """Make the base of `config`, or end what an interrupted start has begun of it (collective)."""
    pretraining = ranks.on_main(lambda: begin_pretraining(config, ranks.world_size))
    _generate(pretraining, ranks)
    run = build(pretraining, ranks, watch)
    refusal = ranks.on_main(lambda: why_not_resumed(run))
    if refusal is not None:
        run.train.close()
        run.sign.leave()
        ranks.on_main(lambda: _set_aside(run, refusal))
        run = build(pretraining, ranks, watch)
    try:
        Trainer(run).fit()
    except StoppedOnRequest:
        if ranks.is_main:
            print(
                "that was only the pretraining of the base: start your own command again instead, and all goes on",
                flush=True,
            )
        ranks.barrier()  # the first rank that leaves makes the launcher end the others
        raise


def _set_aside(run: Run, refusal: str) -> None:
    """Give a run that this one cannot go on with another name: a person may have begun it by hand, and want it."""
    run.folder.check()
    path = run.folder.path
    places = (path.with_name(f"{path.name}-aside-{number}") for number in count(1))
    kept = next(place for place in places if not place.exists())
    with told_as_failed(f"'{kept}'", path.parent):
        path.rename(kept)
    print(f"{refusal} It is kept as '{kept}', and the pretraining is begun again.", flush=True)


def make_world(folder: Path = WORLD, world: WorldConfig | None = None) -> dict[str, Manifest]:
    """Generate a world with a progress bar per split, or open an equal one that is there; manifests by split."""
    with bar_per_split("world") as advance:
        return generate_world(folder, world or WorldConfig(), progress=advance)


def make_pictures(folder: Path = PICTURES, pictures: PicturesConfig | None = None) -> dict[str, Manifest]:
    """Generate labelled pictures in the same way, or open equal ones that are there; manifests by split."""
    with bar_per_split("pictures") as advance:
        return generate_pictures(folder, pictures or PicturesConfig(), progress=advance)


@contextmanager
def bar_per_split(what: str) -> Iterator[Progress]:
    """A function to tell the progress to, one bar for each split it names."""
    bars: dict[str, tqdm[NoReturn]] = {}

    def advance(split: str, done: int, total: int) -> None:
        if split not in bars:
            bars[split] = tqdm(desc=f"{what} {split}", total=total, unit="image")
        bars[split].update(done - bars[split].n)

    try:
        yield advance
    finally:
        for bar in bars.values():
            bar.close()


MAKERS: dict[Path, Callable[[], object]] = {WORLD: make_world, PICTURES: make_pictures}
