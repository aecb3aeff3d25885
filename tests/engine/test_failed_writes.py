"""A disk that refuses what a run writes: one sentence with the file, the reason and the way out, and no traceback."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adaptive_ft.build import build
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.engine.failed_writes import FailedWrite, told_as_failed
from adaptive_ft.engine.generation import GENERATION, next_generation
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder, open_run_folder
from adaptive_ft.tracking import JsonLines
from adaptive_ft.trainer import Trainer

Tiny = Callable[..., list[str]]
Words = Callable[..., RunConfig]
BALLAST = "ballast"


def fill(disk: Path, spare: int = 0) -> None:
    """Leave `spare` bytes free."""
    with (disk / BALLAST).open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(2**20))
    assert os.statvfs(disk).f_bavail == 0
    os.truncate(disk / BALLAST, (disk / BALLAST).stat().st_size - spare)


class Filling:
    """A run's stream of training batches that fills the disk before it gives the first batch of update `at`."""

    def __init__(self, stream: Any, disk: Path, at: int) -> None:
        self._stream, self._disk, self._left = stream, disk, at

    def __next__(self) -> Any:
        self._left -= 1
        if self._left == 0:
            fill(self._disk)
        return next(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.fixture
def options(tiny: Tiny, small_disk: Path) -> Words:
    """The config of a run on the small disk that goes on from what it finds there."""

    def given(*more: str) -> RunConfig:
        place = ("--output_dir", str(small_disk / "runs"), "--resume", "auto", "--no-eval-on-start")
        return load_run_config(tiny("filled", *place, *more))

    return given


@pytest.mark.parametrize(
    ("at", "file"),
    # The first page of metrics.jsonl has room for the lines of the second update.
    [(1, "metrics.jsonl"), (2, "plots/usage_train_epoch02.png")],
)
def test_a_disk_that_fills_up_in_training_is_told_in_one_sentence(
    at: int, file: str, options: Words, small_disk: Path, ranks: Ranks
) -> None:
    """The file, the reason, what to do; with room again the same command ends the run."""
    # Every batch holds all questions, so each update ends an epoch.
    words = ("--max_steps", "2", "--per_device_train_batch_size", "130")
    run = build(options(*words), ranks)
    stream: Any = Filling(run.train, small_disk, at)
    run.train = stream
    with pytest.raises(FailedWrite) as told:
        Trainer(run).fit()
    path = run.folder.path / file
    assert str(told.value) == (
        f"'{path}' could not be written: No space left on device (0.0 MiB are free there). Make room there, and start"
        " the run again with --resume auto."
    )
    (small_disk / BALLAST).unlink()
    resumed = build(options(*words), ranks)
    assert Trainer(resumed).fit()["steps"] == resumed.total_updates


def test_a_run_cannot_begin_on_a_full_disk(options: Words, small_disk: Path, ranks: Ranks) -> None:
    """Neither its folder, nor a random base, nor its config."""
    config = options()
    fill(small_disk)
    with pytest.raises(FailedWrite, match=r"The run folder below '.*runs' could not be written: No space left"):
        open_run_folder(config)
    (small_disk / BALLAST).unlink()
    run = build(config, ranks)
    fill(small_disk)
    with pytest.raises(FailedWrite, match=r"filled/config.yaml' could not be written: No space left"):
        Trainer(run).fit()


def test_a_random_base_needs_room(options: Words, small_disk: Path, ranks: Ranks) -> None:
    """safetensors tells of it in words of its own."""
    fill(small_disk, spare=2**16)
    config = options("--model.name", "None", "--model.hidden_size", "64", "--model.num_attention_heads", "2")
    with pytest.raises(FailedWrite, match=r"filled/base' could not be written: .*No space left on device"):
        build(config, ranks)


@pytest.mark.parametrize("write", ["write_summary", "write_diverged"])
def test_the_last_words_of_a_run_need_room(write: str, small_disk: Path) -> None:
    """And what stood there before stays."""
    folder = RunFolder(small_disk)
    getattr(folder, write)({"first": 1})
    (path,) = small_disk.iterdir()
    before = path.read_bytes()
    fill(small_disk)
    with pytest.raises(FailedWrite, match=f"'{path}' could not be written: No space left on device"):
        getattr(folder, write)({"second": 2})
    assert path.read_bytes() == before


def test_lines_that_could_not_be_written_are_not_told_again_by_closing(small_disk: Path) -> None:
    """The error of the line is the one that people see."""
    lines = JsonLines(small_disk / "metrics.jsonl", None)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left on device"):
        lines.log(1, {"loss": 1.0})
    lines.close()


def test_a_run_whose_file_system_fails_stops_in_one_sentence(tmp_path: Path) -> None:
    """The fence cannot be read: /proc/self/mem gives a real EIO."""
    generation = next_generation(tmp_path)
    (tmp_path / GENERATION).unlink()
    (tmp_path / GENERATION).symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"generation' could not be read: Input/output error"):
        generation.check()


def test_another_reason_than_room_has_another_way_out(tmp_path: Path) -> None:
    """Freeing space would not help, so nothing is said of it."""
    with pytest.raises(FailedWrite) as told, told_as_failed("It", tmp_path / "not/there"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert str(told.value) == (
        "It could not be written: Read-only file system. When it can be written there, start the run again with"
        " --resume auto."
    )


def test_a_path_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    """--output_dir names a file, or --name is too long: a person's mistake."""
    (tmp_path / "runs").touch()
    for config in (RunConfig(output_dir=f"{tmp_path}/runs"), RunConfig(output_dir=str(tmp_path), name="x" * 300)):
        with pytest.raises(FailedWrite, match=r"could not be written: (Not a directory|File name too long)\."):
            open_run_folder(config)


def test_a_fault_of_the_program_stays_one(tmp_path: Path) -> None:
    """Only failed writes are mended by room; what is told already keeps its words."""
    absent = "No such file or directory (os error 2)"
    faults = (KeyError("x"), UserError("No space left on device, said somebody"), RuntimeError(f"I/O error: {absent}"))
    others = (FileNotFoundError(errno.ENOENT, "x"), ConnectionRefusedError(errno.ECONNREFUSED, "x"))
    for error in (*faults, *others, ChildProcessError(errno.ECHILD, "x"), OSError("no number")):
        with pytest.raises(type(error)) as raised, told_as_failed("It", tmp_path):
            raise error
        assert raised.value is error


def test_safetensors_on_a_full_disk_is_a_failed_write(small_disk: Path) -> None:
    """It raises no OSError."""
    fill(small_disk)
    with pytest.raises(FailedWrite, match="could not be written"), told_as_failed("It", small_disk):
        save_file({"a": torch.zeros(10_000)}, small_disk / "a.safetensors")
