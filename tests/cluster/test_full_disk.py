"""A disk that fills up in the middle of a save: one sentence, and the checkpoint before is whole, newest and enough."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptive_ft.engine.checkpoint import LATEST
from adaptive_ft.run_folder import RunFolder

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")
OFTEN = ("--max_steps", "6", "--save_steps", "1", "--no-eval-on-start")
# One rank goes on with what two have begun, two updates further.
ALONE = ("--gradient_accumulation_steps", "2", "--max_steps", "8")


def leave(disk: Path, room: int) -> Path:
    """Fill a disk up to so many bytes; the file that fills it."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free - room))
    return ballast


def weights(run: Path) -> bytes:
    tag = (run / "checkpoints/latest").read_text().strip()
    return (run / "checkpoints" / tag / "adaptive/adaptive_model.safetensors").read_bytes()


def test_a_full_disk_costs_one_save_and_no_more(
    small_disk: Path, launch: Launch, tiny: Tiny, repository: Path, workplace: Path
) -> None:
    """No room for a second checkpoint: exit code 2 with the reason, the torn one gone; with room again the run ends as
    an undisturbed one.
    """
    words = tiny("filled", *OFTEN, "--output_dir", str(small_disk / "runs"), "--resume", "auto")
    program, runs = repository / "tests/cluster/several_runs.py", json.dumps([{"words": words, "stop_at": 1}])
    assert launch(*TORCHRUN, program, small_disk, runs).returncode == 0
    run = RunFolder(small_disk / "runs/filled")
    size = sum(path.stat().st_size for path in run.checkpoints.folder.rglob("*") if path.is_file())
    ballast = leave(small_disk, size // 2)
    full = launch(*TORCHRUN, repository / "train.py", *words)
    told = [line for line in full.stderr.splitlines() if "error" in line and "Checkpoint" in line]
    assert full.returncode != 0
    assert len(told) == 1, full.stderr
    assert f"Checkpoint '{run.checkpoints.folder}/step_000002' could not be written: " in told[0]
    assert "The one before it stays the newest. Make room there, and start the run again with --resume auto." in told[0]
    assert not [line for line in full.stderr.splitlines() if line.startswith("  File ") and "/adaptive_ft/" in line]
    assert run.checkpoints.newest_whole() == ("step_000001", [])
    assert run.checkpoints.pointed(LATEST) == "step_000001"
    assert [path.name for path in run.checkpoints.folder.glob("step_*")] == ["step_000001"]
    ballast.unlink()
    assert launch(*TORCHRUN, repository / "train.py", *words).returncode == 0
    assert launch(*TORCHRUN, repository / "train.py", *tiny("roomy", *OFTEN)).returncode == 0
    assert weights(run.path) == weights(workplace / "runs/roomy")
    conversion_needs_room(run, small_disk, lambda: launch("python", repository / "train.py", *words, *ALONE))


def conversion_needs_room(
    run: RunFolder, disk: Path, go_on_alone: "Callable[[], subprocess.CompletedProcess[str]]"
) -> None:
    """One rank reads what two have written: told of in one sentence, and nothing stays of what was begun."""
    tag = run.checkpoints.pointed(LATEST)
    leave(disk, 2**15)
    full = go_on_alone()
    (told,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert full.returncode == 2
    assert told.startswith(f"error: '{run.checkpoints.folder}/{tag}/universal' could not be written: ")
    assert "Make room there, and start the run again with --resume auto." in told
    assert [path.name for path in run.checkpoints.folder.glob("*.unfinished-*")] == []
    (disk / "ballast").unlink()
    assert go_on_alone().returncode == 0


FILLS_THE_DISK = """
import json, os, sys
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import run_ranks
from adaptive_ft.trainer import Trainer

class Filling:
    def __init__(self, stream):
        self.stream = stream

    def __next__(self):
        disk = os.statvfs(sys.argv[1])
        with open(f"{sys.argv[1]}/ballast", "ab") as ballast:
            ballast.write(bytes(disk.f_bavail * disk.f_frsize))
        return next(self.stream)

    def __getattr__(self, name):
        return getattr(self.stream, name)

def main(ranks):
    run = build(load_run_config(sys.argv[2:]), ranks)
    if ranks.is_main:
        run.train = Filling(run.train)
    Trainer(run).fit()

run_ranks(main)
"""


def test_metrics_that_cannot_be_written_end_all_ranks(
    small_disk: Path, launch: Launch, tiny: Tiny, repository: Path, tmp_path: Path
) -> None:
    """From the first batch on there is room for not one byte: one sentence, told once."""
    (tmp_path / "fills.py").write_text(FILLS_THE_DISK)
    words = tiny("silent", "--output_dir", str(small_disk / "runs"), "--no-eval-on-start")
    done = launch(*TORCHRUN, tmp_path / "fills.py", small_disk, *words)
    assert done.returncode != 0
    (told,) = [line for line in done.stderr.splitlines() if "error" in line and "could not be written" in line]
    assert f"error: '{small_disk}/runs/silent/metrics.jsonl' could not be written: No space left on device" in told
    assert not [line for line in done.stderr.splitlines() if line.startswith("  File ") and "/adaptive_ft/" in line]


ONE_RANK_MAY_NOT = """
import json, resource, sys
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import run_ranks
from adaptive_ft.trainer import Trainer

def main(ranks):
    first, second = json.loads(sys.argv[1])
    Trainer(build(load_run_config(first), ranks)).fit()
    if ranks.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    Trainer(build(load_run_config(second), ranks)).fit()

run_ranks(main)
"""


@pytest.mark.parametrize("stage", [2, 3])
def test_what_one_rank_cannot_write_is_known_to_all(stage: int, launch: Launch, tiny: Tiny, tmp_path: Path) -> None:
    """Only rank 1's files are limited: rank 0 does not wait for it, and nobody believes in that checkpoint."""
    (tmp_path / "one_may_not.py").write_text(ONE_RANK_MAY_NOT)
    first = tiny("limited", "--max_steps", "1", "--output_dir", str(tmp_path / "runs"), stage=stage)
    second = [*first, "--max_steps", "3", "--resume", "auto"]
    done = launch(*TORCHRUN, tmp_path / "one_may_not.py", json.dumps([first, second]))
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "Checkpoint" in line]
    assert len(told) == 1, done.stderr
    assert "error (rank 1): Checkpoint" in told[0]
    checkpoints = RunFolder(tmp_path / "runs/limited").checkpoints
    assert checkpoints.newest_whole() == ("step_000001", [])
    assert [path.name for path in checkpoints.folder.glob("step_*")] == ["step_000001"]
