"""A run that is killed and resumed ends where an undisturbed one does, bit for bit; the kill is a real SIGKILL.

Mirrors no single module: trainer, saving, engine/checkpoint and tracking hold this together.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]

TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")
# Two epochs of about 15 updates on 2 ranks, a checkpoint at every second update and after each epoch.
LONG = ("--max_steps", "31", "--save_steps", "2", "--adapt.strategy", "spottune", "--adapt.final_temperature", "0.5")
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def undisturbed(launch: Launch, tiny: Tiny, repository: Path, workplace: Path) -> Path:
    """The run nobody kills."""
    done = launch(*TORCHRUN, repository / "train.py", *tiny("undisturbed", *LONG))
    assert done.returncode == 0, done.stderr
    return workplace / "runs/undisturbed"


@pytest.fixture(scope="module")
def killed(undisturbed: Path, tiny: Tiny, repository: Path, workplace: Path, environment: dict[str, str]) -> Path:
    """The same run, its processes killed as soon as a checkpoint in the midst of the first epoch stands."""
    run = workplace / "runs/killed"
    program = [Path(sys.executable).with_name(TORCHRUN[0]), *TORCHRUN[1:], repository / "train.py"]
    with (workplace / "killed.log").open("w") as log:
        launcher = subprocess.Popen(
            [*map(str, program), *tiny("killed", *LONG)],
            cwd=workplace,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(run / "checkpoints/latest", launcher)
        finally:
            kill_with_ranks(launcher.pid)
            launcher.wait()
    assert not (run / "summary.json").exists(), "the run was over before the kill"
    return run


def wait_for(pointer: Path, launcher: "subprocess.Popen[bytes]") -> None:
    """Until `pointer` names a checkpoint that is not the first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not pointer.is_file() or pointer.read_text() < "step_000004":
        assert launcher.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.005)


def kill_with_ranks(leader: int) -> None:
    """SIGKILL the launcher and its ranks, which torchrun puts into sessions of their own."""
    family = [leader]
    for parent in family:
        listed = Path(f"/proc/{parent}/task/{parent}/children")
        family += [int(child) for child in listed.read_text().split()] if listed.exists() else []
    for process in family:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def metrics(run: Path) -> list[dict[str, Any]]:
    """All recorded lines without the speed and the waiting for data, which no two runs share."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("time/", "train/data_stall_share")
    return [{name: value for name, value in line.items() if not name.startswith(measured)} for line in lines]


def summary(run: Path) -> dict[str, Any]:
    content = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in content.items() if name not in ("seconds", "name")}


def weights(run: Path, pointer: str = "latest") -> bytes:
    tag = (run / "checkpoints" / pointer).read_text().strip()
    return (run / "checkpoints" / tag / "adaptive/adaptive_model.safetensors").read_bytes()


def assert_same_run(run: Path, other: Path) -> None:
    assert metrics(run) == metrics(other)
    assert summary(run) == summary(other)
    for pointer in ("latest", "best"):
        name = f"checkpoints/{pointer}"
        assert (run / name).read_text() == (other / name).read_text()
        assert weights(run, pointer) == weights(other, pointer)


def resume(launch: Launch, options: list[str], repository: Path) -> "subprocess.CompletedProcess[str]":
    done = launch(*TORCHRUN, repository / "train.py", *options, "--resume", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_killed_run_resumes_to_the_same_end(
    undisturbed: Path, killed: Path, launch: Launch, tiny: Tiny, repository: Path, workplace: Path
) -> None:
    """Same weights to the bit, same metrics but for the speed, same summary but for the seconds."""
    run = workplace / "runs/resumed"
    shutil.copytree(killed, run)
    done = resume(launch, tiny("resumed", *LONG), repository)
    assert "resuming from step_0000" in done.stdout
    assert_same_run(run, undisturbed)


def test_a_torn_checkpoint_is_passed_over_with_a_word(
    undisturbed: Path, killed: Path, launch: Launch, tiny: Tiny, repository: Path, workplace: Path
) -> None:
    """A checkpoint with a cut file is passed over by name; from the one before it the run comes to the same end."""
    run = workplace / "runs/torn"
    shutil.copytree(killed, run)
    tags = sorted(place.parent.name for place in (run / "checkpoints").glob("step_*/manifest.json"))
    before, newest = tags[-2:]
    assert (run / "checkpoints/latest").read_text().strip() in (before, newest)
    (run / "checkpoints/latest").write_text(f"{newest}\n")
    torn = next((run / "checkpoints" / newest).glob("*zero_pp_rank_1*optim_states.pt"))
    os.truncate(torn, torn.stat().st_size // 2)
    done = resume(launch, tiny("torn", *LONG), repository)
    assert f"checkpoint {newest} is passed over: {torn.name} has" in done.stdout
    assert f"resuming from {before}" in done.stdout
    assert_same_run(run, undisturbed)
