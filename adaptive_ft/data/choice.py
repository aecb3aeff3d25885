"""Which shards a run reads, and how: the data section of its config."""

from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.data.records import Question
from adaptive_ft.data.shard_set import ShardSet
from adaptive_ft.data.stream import EvalStream
from adaptive_ft.errors import UserError

READ_AT_ONCE = 1024


@dataclass
class DataConfig:
    """Shard folders for training and validation."""

    train: str = ""
    """Folder of shards to train on."""
    val: str = ""
    """Folder of shards to evaluate on after every epoch."""
    blind: bool = False
    """Questions only: region features are not read, every picture is one zero vector."""
    tokenizer: str | None = None
    """Hub id or folder; default: the one that lies with the base model, else the one the shards name."""
    readers: int = 1
    """Threads per rank that read batches ahead."""


def open_shards(folder: str, config: DataConfig) -> ShardSet:
    """The shard set in `folder`, blind when the config says so.

    Raises:
        UserError: no folder named, missing or damaged shards, or a manifest that does not match them.
    """
    if not folder:
        raise UserError("No shards are named: give the folders with --data.train and --data.val.")
    shards = ShardSet.open(Path(folder))
    return shards.with_blind() if config.blind else shards


def all_questions(shards: ShardSet) -> list[Question]:
    """Every question of a shard set, in order, without reading any features."""
    stream = EvalStream(shards.with_blind(1), batch_size=READ_AT_ONCE, readers=1)
    questions = [question for batch in stream for question in batch.questions]
    return questions[: shards.num_examples]
