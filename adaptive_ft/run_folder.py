"""The folder of one run: its name, its config, its summary; never two runs in one folder.

runs/NAME/config.yaml      the resolved config; its presence says that the folder is taken
runs/NAME/base/            the base of a run that no checkpoint could give again: all or part of it was random
runs/NAME/metrics.jsonl    one line per logging interval and epoch
runs/NAME/plots/           pictures and their CSVs
runs/NAME/checkpoints/     see engine/checkpoint.py
runs/NAME/invariance/      what adaptive-ft invariance found, unless it was told to write elsewhere
runs/NAME/summary.json     the row of the strategy table, written when the run has finished
runs/NAME/also_val.json    its scores on the further sets of --data.also_val, by address; written after the summary
runs/NAME/generation       which start of the run may write here (engine/generation.py)
runs/NAME/alive            who is at it at the moment (engine/living.py)
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from adaptive_ft.analysis.measurement_folder import IN_RUN_FOLDER
from adaptive_ft.config import RunConfig, dump_run_config
from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.engine.generation import GENERATION, Generation, next_generation
from adaptive_ft.engine.living import ALIVE, refuse_second_run, write_sign
from adaptive_ft.errors import UserError
from adaptive_ft.strategies import DECIDED, canonical
from adaptive_ft.tracking import TRACKER_ID, keep_tracker_id
from adaptive_ft.whole_files import read_json_object, write_whole

OPENING = {"config.yaml", "base", "plots", GENERATION, ALIVE}


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; whatever writes raises `TakenOver` where a newer start of the run owns the folder."""

    path: Path
    generation: Generation | None = None
    """This start of the run; None for those who only read."""

    def check(self) -> None:
        """Raise `TakenOver` where a newer start of the run owns the folder; for those who write by themselves."""
        if self.generation is not None:
            self.generation.check()

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Around what writes `path` in the folder: `check` comes first, and a disk that refuses is a `FailedWrite`."""
        self.check()
        with told_as_failed(f"'{path}'", self.path):
            yield

    def _write(self, path: Path, content: str) -> None:
        with self.writing(path):
            write_whole(path, content, self.check)

    @property
    def plots(self) -> Path:
        """Pictures and CSVs."""
        return self.path / "plots"

    @property
    def invariance(self) -> Path:
        """Which invariances of the pretrained model were kept: matrices, summary and pictures."""
        return self.path / IN_RUN_FOLDER

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Whole checkpoints and their pointer."""
        return CheckpointFolder(self.path / "checkpoints", self.generation)

    @property
    def base(self) -> Path:
        """The base of a run that no checkpoint could give again: all or part of its weights were random."""
        return self.path / "base"

    @property
    def config_file(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    def begin(self, config: RunConfig) -> None:
        """Write config.yaml; in a folder that is resumed only when its checkpoint has accepted the config. The summary
        of a run that goes on beyond its end is none any more.
        """
        self._write(self.config_file, dump_run_config(config))
        self.summary_file.unlink(missing_ok=True)

    @property
    def summary_file(self) -> Path:
        """The run's row in the strategy table; its presence says that the run has finished."""
        return self.path / "summary.json"

    @property
    def diverged_file(self) -> Path:
        """The questions of the update that diverged."""
        return self.path / "diverged.json"

    def write_diverged(self, found: dict[str, Any]) -> None:
        """Write diverged.json."""
        self._write(self.diverged_file, json.dumps(found, indent=1))

    def give_back(self) -> None:
        """Remove the folder, and so free its name, when there is nothing in it but what opening a run makes; never that
        of another start.
        """
        try:
            self.check()
        except UserError:
            return
        if {path.name for path in self.path.iterdir()} <= OPENING and not any(self.plots.glob("*")):
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def also_val_file(self) -> Path:
        """The scores on further validation sets."""
        return self.path / "also_val.json"

    def also_val(self) -> dict[str, Any]:
        """The scores on further validation sets so far, by address; raises UserError where their file is damaged."""
        return read_json_object(self.also_val_file) or {}

    def write_also_val(self, scores: dict[str, Any]) -> None:
        """Write also_val.json."""
        self._write(self.also_val_file, json.dumps(scores, indent=1))

    def keep_tracker_id(self, number: str) -> None:
        """Give the run the id by which a tracker knows it, unless it has one."""
        with self.writing(self.path / TRACKER_ID):
            keep_tracker_id(self.path, number)

    def summary(self) -> dict[str, Any] | None:
        """The run's row in the strategy table, None while it has not finished; raises UserError for a damaged file."""
        return read_json_object(self.summary_file)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json atomically: its presence says that the run has finished."""
        self._write(self.summary_file, json.dumps(summary, indent=1))


def open_run_folder(config: RunConfig) -> RunFolder:
    """Make or find the folder of a run and take it over: its generation rises (rank 0 only).

    A fresh run gets a new folder: `name`, or strategy-policy with the first free number; a folder without any file is
    free. `--resume auto` takes the existing one.

    Raises:
        UserError: the name is no single folder name; the named folder is taken and the run does not resume; or it
            resumes and another process is at it; or it cannot be made.
    """
    with told_as_failed(f"The run folder below '{config.output_dir}'", Path(config.output_dir)):
        return _open(config)


def _open(config: RunConfig) -> RunFolder:
    if config.resume == "auto":
        taken = list(takewhile(_is_taken, _places(config)))
        if taken:
            refuse_second_run(taken[-1])
            return _taken_over(taken[-1])
    for path in _places(config):
        if _take(RunFolder(path), config):
            return _taken_over(path)
    raise UserError(f"The run folder '{path}' is not empty: continue it with --resume auto, or choose another --name.")


def _taken_over(path: Path) -> RunFolder:
    """The folder as this start's, seen to be so at once: building the model may take minutes."""
    generation = next_generation(path)
    write_sign(generation)
    return RunFolder(path, generation)


def default_name(config: RunConfig) -> str:
    """strategy-policy, or the strategy alone where nothing is left to decide."""
    strategy = canonical(config.adapt.strategy)
    return f"{strategy}-{config.adapt.policy.kind}" if strategy in DECIDED else strategy


def _places(config: RunConfig) -> Iterator[Path]:
    """Where the run may go, in order: the one folder of its name, or endlessly many numbered ones."""
    root = Path(config.output_dir)
    if config.name is None:
        stem = default_name(config)
        yield from (root / (stem if number == 1 else f"{stem}-{number}") for number in count(1))
    else:
        if config.name in ("", ".", "..") or Path(config.name).name != config.name:
            raise UserError(f"--name '{config.name}' is not one folder name; the folder above it is --output_dir.")
        yield root / config.name


def _is_taken(path: Path) -> bool:
    return path.is_file() or any(inside.is_file() for inside in path.rglob("*"))


def _take(folder: RunFolder, config: RunConfig) -> bool:
    """Make `folder` this run's, unless another has it or takes it at the same moment: one of two creates the file."""
    if _is_taken(folder.path):
        return False
    folder.plots.mkdir(parents=True, exist_ok=True)
    try:
        with folder.config_file.open("x", encoding="utf-8") as file:
            file.write(dump_run_config(config))
    except FileExistsError:
        return False
    return True
