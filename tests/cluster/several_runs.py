"""Runs of train.py one after the other on the ranks of one launcher; the questions of every batch are written down.

torchrun ... several_runs.py FOLDER '[{"words": ["--name", ...], "stop_at": 6}, ...]'

stop_at: the run ends without a word when update 7 asks for its first batch, as if it had been killed; null: never.
FOLDER/NAME.WORLD_SIZE.RANK.json: the question ids of each batch, in the order in which the run drew them.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks, run_ranks
from adaptive_ft.trainer import Trainer


class Stopped(Exception):
    """The run has come to its stop."""


class Watched:
    """A run's stream of training batches that keeps what it gave, and ends where `stop` examples have been seen."""

    def __init__(self, stream: Any, stop: float) -> None:
        self._stream, self._stop = stream, stop
        self.read: list[list[int]] = []

    def __next__(self) -> Any:
        if self._stream.state_dict()["examples_seen"] >= self._stop:
            raise Stopped
        batch = next(self._stream)
        self.read.append([question.question_id for question in batch.questions])
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def one_run(ranks: Ranks, folder: Path, words: list[str], stop_at: int | None) -> None:
    """Build and fit; what was read goes to the folder however the run ends."""
    config = load_run_config(words, loud=ranks.is_main)
    run = build(config, ranks)
    watched: Any = Watched(run.train, float("inf") if stop_at is None else stop_at * run.global_batch)
    run.train = watched
    with contextlib.suppress(Stopped):
        Trainer(run).fit()
    (folder / f"{config.name}.{ranks.world_size}.{ranks.rank}.json").write_text(json.dumps(watched.read))
    ranks.barrier()


def main(ranks: Ranks) -> None:
    """All runs of the command line."""
    for run in json.loads(sys.argv[2]):
        one_run(ranks, Path(sys.argv[1]), run["words"], run["stop_at"])


if __name__ == "__main__":
    run_ranks(main)
