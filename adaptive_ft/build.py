"""From a config to the parts of a run: shards, task, base model, adapted model, engine, folder.

Everything that can be wrong with the input is looked at before anything is written, and a mistake is told once, not
once per rank.
"""

import math
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from adaptive_ft.adapt import AdaptiveModel, get_adaptive_model
from adaptive_ft.config import RunConfig
from adaptive_ft.data.choice import open_shards
from adaptive_ft.data.shard_set import ShardSet
from adaptive_ft.data.stream import EvalStream, TrainStream
from adaptive_ft.engine.checkpoint import LATEST
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import ModelConfig, build_base, may_be_hub_id
from adaptive_ft.run_folder import RunFolder, open_run_folder
from adaptive_ft.tasks.vqa import VqaTask
from adaptive_ft.tracking import check_trackers

COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "save_steps",
    "save_total_limit",
    "data.readers",
    "task.max_question_length",
    "tracking.logging_steps",
)
TOKENIZER_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class Parts:
    """What a config describes, before any engine: made alike on every rank."""

    train_shards: ShardSet
    val_shards: ShardSet
    tokenizer: PreTrainedTokenizerBase
    task: VqaTask
    model: AdaptiveModel
    numbers: EngineNumbers


@dataclass
class Run:
    """A run ready to train."""

    config: RunConfig
    ranks: Ranks
    folder: RunFolder
    parts: Parts
    engine: Engine
    train: TrainStream
    parameter_counts: dict[str, int]

    @property
    def global_batch(self) -> int:
        """Examples per update over all ranks and micro-batches."""
        numbers = self.parts.numbers
        return numbers.micro_batch * numbers.accumulation * numbers.world_size

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.engine.total_updates

    def epoch_end(self, epoch: int) -> int:
        """The update that completes epoch `epoch` (0-based); the last update of the run ends its last epoch."""
        whole = math.ceil((epoch + 1) * self.parts.train_shards.num_examples / self.global_batch)
        return min(whole, self.total_updates)

    def open_val(self) -> EvalStream:
        """A pass over this rank's share of the validation questions."""
        return EvalStream(
            self.parts.val_shards,
            batch_size=self.config.per_device_eval_batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            readers=self.config.data.readers,
        )


def build(config: RunConfig, ranks: Ranks) -> Run:
    """Make every part of the run that `config` describes.

    Raises:
        UserError: anything wrong with options or input, before the run folder is made.
    """
    parts = ranks.together(lambda: _build_parts(config, ranks.world_size))
    folder = RunFolder(ranks.on_main(lambda: open_run_folder(config).path))
    if config.model.name is None and ranks.is_main:
        keep_random_base(parts.model, folder)
    counts = parts.model.count_parameters()
    if ranks.is_main:
        print(f"run folder {folder.path}; {_sizes(parts, config)}", flush=True)
        parts.model.print_trainable_parameters()
    global_batch = parts.numbers.micro_batch * parts.numbers.accumulation * ranks.world_size
    epochs = math.ceil(config.num_train_epochs * parts.train_shards.num_examples / global_batch)
    engine = Engine(
        parts.model,
        parts.model.parameter_groups(),
        config.optim,
        parts.numbers,
        Path(config.ds_config),
        ranks,
        config.max_steps or epochs,
    )
    train = TrainStream(
        parts.train_shards,
        batch_size=config.per_device_train_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        seed=config.seed,
        readers=config.data.readers,
    )
    return Run(config, ranks, folder, parts, engine, train, counts)


def _build_parts(config: RunConfig, world_size: int) -> Parts:
    check_counts(config)
    check_trackers(config.tracking)
    numbers = EngineNumbers(
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
        world_size,
        config.optim.max_grad_norm,
        config.precision,
    )
    ds_config = Path(config.ds_config)
    fill_ds_config(read_ds_config(ds_config), numbers, ds_config)
    train_shards, val_shards = (open_shards(name, config.data) for name in (config.data.train, config.data.val))
    check_same_data(train_shards, val_shards)
    tokenizer = load_tokenizer(config.data.tokenizer, config.model, train_shards)
    task = VqaTask(train_shards.manifest.answer_table, tokenizer, max_question_length=config.task.max_question_length)
    # All ranks start from the same weights; DeepSpeed broadcasts rank 0's besides.
    torch.manual_seed(config.seed)
    base = build_base(
        config.model,
        num_answers=task.num_answers,
        visual_feat_dim=train_shards.feature_dim,
        vocab_size=len(tokenizer),
    )
    model = get_adaptive_model(base, config.adapt)
    check_export(config.export_to, model)
    return Parts(train_shards, val_shards, tokenizer, task, model, numbers)


def keep_random_base(model: AdaptiveModel, folder: RunFolder) -> None:
    """Save the random weights a run starts from: no hub or folder could give the frozen half again.

    Once there is a checkpoint that stands on them they stay: a resume with another seed must not take them away.
    """
    if folder.checkpoints.pointed(LATEST) is not None:
        return
    base: PreTrainedModel = model.base
    plain = {name: value for name, value in base.state_dict().items() if "delta_" not in name}
    base.save_pretrained(folder.base, state_dict=plain)


def check_counts(config: RunConfig) -> None:
    """Refuse a zero or a negative number where a run needs at least one of something."""
    for option in COUNTS:
        value = attrgetter(option)(config)
        if value is not None and value < 1:
            raise UserError(f"--{option} is {value}; it must be at least 1.")
    if config.num_train_epochs <= 0:
        raise UserError(f"--num_train_epochs is {config.num_train_epochs}; it must be above 0.")


def check_export(destination: str | None, model: AdaptiveModel) -> None:
    """Refuse before the training what could not be exported after it."""
    if destination is None:
        return
    if model.decisions:
        raise UserError(
            f"--export_to '{destination}' needs one set of weights, but strategy '{model.config.strategy}' decides per"
            " input: leave it out, or choose a strategy with constant decisions."
        )
    place = Path(destination)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"--export_to '{destination}' is in use: choose a new folder, or remove it first.")


def load_tokenizer(wanted: str | None, model: ModelConfig, shards: ShardSet) -> PreTrainedTokenizerBase:
    """The tokenizer asked for; else the one that lies with the base model; else the one the shards name.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    name = wanted
    if name is None and model.name is not None and _brings_tokenizer(model.name):
        name = model.name
    if name is None and shards.manifest.tokenizer is not None:
        beside = shards.folder / shards.manifest.tokenizer
        name = str(beside) if beside.is_dir() else shards.manifest.tokenizer
    if name is None:
        raise UserError(
            f"Neither the base model nor the shards in '{shards.folder}' name a tokenizer: give one with"
            " --data.tokenizer (a folder or a hub id)."
        )
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"The tokenizer '{name}' cannot be read: {str(error).splitlines()[0]}") from error


def check_same_data(train: ShardSet, val: ShardSet) -> None:
    """Refuse two shard sets that one model cannot serve: other answers, feature sizes or feature extractors."""
    pairs: list[tuple[str, Any, Any]] = [
        (
            "answer table (SHA-256)",
            train.manifest.answer_table_sha256[:12],
            val.manifest.answer_table_sha256[:12],
        ),
        ("feature size", train.feature_dim, val.feature_dim),
        ("feature extractor", train.manifest.feature_extractor, val.manifest.feature_extractor),
    ]
    for what, first, second in pairs:
        if first != second:
            raise UserError(
                f"The shards in '{train.folder}' and '{val.folder}' differ in their {what}: {first} and {second}."
                " Write both with the same options."
            )


def _brings_tokenizer(name: str) -> bool:
    """A hub id always may; a folder does when a tokenizer was saved in it."""
    return (Path(name) / TOKENIZER_FILE).is_file() if Path(name).is_dir() else may_be_hub_id(name)


def _sizes(parts: Parts, config: RunConfig) -> str:
    numbers = parts.numbers
    total = numbers.micro_batch * numbers.accumulation * numbers.world_size
    return (
        f"{parts.train_shards.num_examples} training and {parts.val_shards.num_examples} validation questions; "
        f"batch {numbers.micro_batch} x {numbers.accumulation} x {numbers.world_size} ranks = {total}; "
        f"strategy {config.adapt.strategy} with {_decisions(parts.model)}"
    )


def _decisions(model: AdaptiveModel) -> str:
    dead = model.tying.live.count(False)
    return f"{len(model.decisions)} decisions" + (
        f", {dead} of them dead (they cannot reach the answer)" if dead else ""
    )
