"""From a config to the parts of a run: shards, task, base model, adapted model, engine, folder.

Everything that can be wrong with the input is looked at before anything is written, and a mistake is told once, not
once per rank.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from adaptive_ft.adapt import AdaptiveModel, get_adaptive_model
from adaptive_ft.checks import check_answered, check_export, check_options, check_same_data
from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.choice import bad_samples, open_also_val, open_train_and_val
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream, TrainStream
from adaptive_ft.engine.checkpoint import LATEST
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.living import SignOfLife
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.errors import UserError
from adaptive_ft.exported import check_destination
from adaptive_ft.models.loading import build_base
from adaptive_ft.run_folder import RunFolder, open_run_folder
from adaptive_ft.subjects import Subject, choose_subject
from adaptive_ft.tasks.task import Task
from adaptive_ft.tracking import check_trackers
from adaptive_ft_kernels import path_on, use_path


@dataclass(frozen=True)
class Parts:
    """What a config describes, before any engine: made alike on every rank."""

    train_shards: ShardSet
    val_shards: ShardSet
    also_val_shards: tuple[ShardSet, ...]
    subject: Subject
    task: Task
    model: AdaptiveModel
    numbers: EngineNumbers
    ds_config: dict[str, Any]


@dataclass
class Run:
    """A run ready to train."""

    config: RunConfig
    ranks: Ranks
    folder: RunFolder
    parts: Parts
    engine: Engine
    train: TrainStream
    sign: SignOfLife
    """That somebody is at the folder; shown until `Trainer.fit` ends."""
    watch: Watchdog

    @property
    def global_batch(self) -> int:
        """Examples per update over all ranks and micro-batches."""
        return self.parts.numbers.global_batch

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.engine.total_updates

    def completed_epochs(self, update: int) -> int:
        """How often every training question has been seen after `update` updates."""
        return update * self.global_batch // self.parts.train_shards.num_examples

    def ends_epoch(self, update: int) -> bool:
        """Whether `update` completes an epoch (or several, where a batch holds all questions) or is the last one."""
        return update == self.total_updates or self.completed_epochs(update) > self.completed_epochs(update - 1)

    def epoch_of(self, update: int) -> int:
        """The number, from 1, of the epoch that `update` completes or belongs to."""
        return max(self.completed_epochs(update), self.completed_epochs(update - 1) + 1)

    def open_val(self, shards: ShardSet) -> EvalStream:
        """A pass over this rank's share of the questions of a validation set."""
        return EvalStream(
            shards,
            batch_size=self.config.per_device_eval_batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            readers=self.config.data.readers,
        )


def build(config: RunConfig, ranks: Ranks, watch: Watchdog | None = None) -> Run:
    """Make every part of the run that `config` describes, and train it, under `watch`; nobody watches without one.

    Raises:
        UserError: anything wrong with options or input; a run folder that was new is not left behind.
    """
    watch = watch or Watchdog(ranks, config.rank_timeout)
    parts = ranks.together(lambda: _build_parts(config, ranks, watch))
    folder = ranks.on_main(lambda: open_run_folder(config))
    sign = SignOfLife(folder.generation if ranks.is_main else None)
    try:
        ranks.on_main(sign.show)
        return _start(config, ranks, parts, folder, sign, watch)
    except BaseException:
        sign.leave()
        if ranks.is_main:
            folder.give_back()
        raise


def _start(config: RunConfig, ranks: Ranks, parts: Parts, folder: RunFolder, sign: SignOfLife, watch: Watchdog) -> Run:
    """Engine and stream around the parts, in a folder of their own."""
    epochs = math.ceil(config.num_train_epochs * parts.train_shards.num_examples / parts.numbers.global_batch)
    total_updates = config.max_steps or epochs
    ranks.on_main(lambda: check_destination(config.export_to, folder, total_updates))
    ranks.on_main(lambda: keep_nameless_base(parts.model.base, folder))
    if ranks.is_main:
        print(f"run folder {folder.path}; {_sizes(parts, config)}", flush=True)
        print(f"gated layers on {ranks.device.type}: {path_on(ranks.device.type)} path", flush=True)
        parts.model.print_trainable_parameters()
    watch.phase("building the engine")
    engine = Engine(
        parts.model,
        parts.model.parameter_groups(),
        config.optim,
        parts.ds_config,
        ranks,
        total_updates,
    )
    train = TrainStream(
        parts.train_shards,
        batch_size=config.per_device_train_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        seed=config.seed,
        readers=config.data.readers,
        bad=bad_samples(config.data, parts.train_shards),
    )
    return Run(config, ranks, folder, parts, engine, train, sign, watch)


def _build_parts(config: RunConfig, ranks: Ranks, watch: Watchdog) -> Parts:
    watch.phase("building the model")
    check_options(config)
    choose_kernels(config, ranks.device.type)
    check_trackers(config.tracking)
    numbers = EngineNumbers(
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
        ranks.world_size,
        config.optim.max_grad_norm,
        config.precision,
    )
    source = Path(config.ds_config)
    ds_config = fill_ds_config(read_ds_config(source), numbers, source)
    train_shards, val_shards = open_train_and_val(config.data)
    also_val_shards = open_also_val(config.data)
    for shards in (train_shards, val_shards, *also_val_shards):
        check_answered(shards)
        check_same_data(train_shards, shards)
    subject = choose_subject(config, train_shards)
    # All ranks start from the same weights; DeepSpeed broadcasts rank 0's besides.
    torch.manual_seed(config.seed)
    base = build_base(config.model, subject.facts)
    train_shards, val_shards = (subject.fit(shards, base) for shards in (train_shards, val_shards))
    also_val_shards = tuple(subject.fit(shards, base) for shards in also_val_shards)
    task = subject.task(config, base)
    model = get_adaptive_model(base, config.adapt)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    check_export(config.export_to, model)
    watch.phase("waiting for the models of the other ranks")
    return Parts(train_shards, val_shards, also_val_shards, subject, task, model, numbers, ds_config)


def choose_kernels(config: RunConfig, device: str) -> None:
    """Take the kernels that `config` names for a kind of device.

    Raises:
        UserError: they cannot run there.
    """
    try:
        use_path(config.kernels)
        path_on(device)
    except ValueError as refusal:
        raise UserError(f"--kernels {config.kernels}: {refusal}.") from refusal


def keep_nameless_base(base: PreTrainedModel, folder: RunFolder) -> None:
    """Save the weights a run starts from where no hub, folder or file could give them again: some were random.

    Once there is a checkpoint that stands on them they stay: a resume with another seed must not take them away.
    """
    if base.config.name_or_path or folder.checkpoints.pointed(LATEST) is not None:
        return
    plain = {name: value for name, value in base.state_dict().items() if "delta_" not in name}
    with folder.writing(folder.base):
        base.save_pretrained(folder.base, state_dict=plain)


def _sizes(parts: Parts, config: RunConfig) -> str:
    numbers = parts.numbers
    return (
        f"{parts.train_shards.num_examples} training and {parts.val_shards.num_examples} validation"
        f" {parts.subject.noun}; "
        f"batch {numbers.micro_batch} x {numbers.accumulation} x {numbers.world_size} ranks = {numbers.global_batch}; "
        f"strategy {config.adapt.strategy} with {_decisions(parts.model)}"
    )


def _decisions(model: AdaptiveModel) -> str:
    dead = model.tying.live.count(False)
    return f"{len(model.decisions)} decisions" + (
        f", {dead} of them dead (they cannot reach the answer)" if dead else ""
    )
