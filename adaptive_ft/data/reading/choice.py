"""Which shards a run reads, and how: the data section of its config."""

import getpass
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptive_ft.data.places.remote import is_remote
from adaptive_ft.data.reading.bad_samples import BadSamples, SkipBad, StopAtBad
from adaptive_ft.data.reading.shard_set import OnCut, ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError

logger = logging.getLogger(__name__)

READ_AT_ONCE = 1024


@dataclass
class DataConfig:
    """Shard folders for training and validation."""

    train: str = ""
    """Folder of shards to train on, or the address of one elsewhere: http://host/folder, pipe:command {}."""
    val: str = ""
    """Folder or address of shards to evaluate on after every epoch."""
    also_val: tuple[str, ...] = ()
    """More such folders or addresses, judged once, by the weights of the last update; see also_val.json in the run's
    folder."""
    blind: bool = False
    """Questions only: region features are not read, every picture is one zero vector."""
    tokenizer: str | None = None
    """Hub id or folder; default: the one that lies with the base model, else the one the shards name."""
    readers: int = 1
    """Threads per rank that read batches ahead, two each and at least four in all; 0 reads in the training's own."""
    on_bad: Literal["skip", "fail"] = "skip"
    """What training does about a damaged sample, or one cut off; an evaluation, or a missing shard, always fails."""
    max_bad_share: float = 0.001
    """Share of the examples that may be left out as damaged before training fails."""
    cache: str | None = None
    """Folder on a disk of this machine for copies of shards that lie elsewhere, shared by all ranks and runs; default:
    adaptive-ft-shards-USER in the folder for temporary files."""
    cache_gb: float = 100.0
    """Room for copies of one shard set, in 10^9 bytes; it must hold the 32 shards that are planned at a time."""


def open_train_and_val(config: DataConfig) -> tuple[ShardSet, ShardSet]:
    """The shard sets to train and to evaluate on, blind when the config says so.

    A training shard that was cut short is warned of where damaged samples are skipped; `bad_samples` counts its loss.

    Raises:
        UserError: none named, missing or damaged shards, a manifest that does not match them, or a greater loss than
            may be skipped.
    """
    if not (config.train and config.val):
        raise UserError("No shards are named: give the folders with --data.train and --data.val.")
    train, val = open_train(config), open_set(config.val, config)
    if config.blind:
        train, val = train.with_blind(), val.with_blind()
    bad_samples(config, train)
    return train, val


def open_also_val(config: DataConfig) -> tuple[ShardSet, ...]:
    """The further sets to judge a finished run on; raises UserError as `open_set` does."""
    sets = (open_set(address, config) for address in config.also_val)
    return tuple(shards.with_blind() if config.blind else shards for shards in sets)


def open_train(config: DataConfig) -> ShardSet:
    """The shard set to train on; a shard that was cut short is warned of where damaged samples are skipped.

    Raises UserError as `open_set` does.
    """
    return open_set(config.train, config, logger.warning if config.on_bad == "skip" else None)


def open_set(address: str, config: DataConfig, on_cut: OnCut | None = None) -> ShardSet:
    """The shard set in a folder or behind an address, with all that it holds; for `on_cut` see `ShardSet.open`.

    Raises UserError for missing or damaged shards, or a manifest that does not match them.
    """
    if is_remote(address):
        cache = config.cache or f"{tempfile.gettempdir()}/adaptive-ft-shards-{_user()}"
        return ShardSet.open_remote(address, Path(cache), int(config.cache_gb * 1e9))
    return ShardSet.open(Path(address), on_cut)


def _user() -> str:
    """The user's name, or number where it has none, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def bad_samples(config: DataConfig, shards: ShardSet) -> BadSamples:
    """What training on `shards` does about damaged samples; those of shards that were cut short are counted already.

    Raises UserError for a share that is none, and where shards have lost more examples than that.
    """
    if config.on_bad == "fail":
        return StopAtBad()
    bad = SkipBad(config.max_bad_share, shards.num_examples)
    bad.add(shards.cut_off())
    return bad


def all_questions(shards: ShardSet) -> list[Question]:
    """Every question of a shard set, in order, without reading any features."""
    questions = [question for batch in _blindly(shards) for question in batch.questions]
    return questions[: shards.num_examples]


def images_by_question(shards: ShardSet) -> dict[int, str]:
    """The id of the image that each question of a shard set is about, by the question's id."""
    return {
        question.question_id: image_id
        for batch in _blindly(shards)
        for question, image_id in zip(batch.questions, batch.image_ids, strict=True)
    }


def _blindly(shards: ShardSet) -> EvalStream:
    """A pass over all examples that reads neither features nor pixels."""
    return EvalStream(shards.with_blind(1), batch_size=READ_AT_ONCE, readers=1)
