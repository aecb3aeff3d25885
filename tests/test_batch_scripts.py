"""The batch scripts of slurm/ as text; tests/cluster/test_slurm.py runs them on a Slurm cluster."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "slurm"
SCRIPTS = sorted([*FOLDER.glob("*.sbatch"), *FOLDER.glob("*.sh")])
BATCH = sorted(FOLDER.glob("*.sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_reads_it(script: Path) -> None:
    """No syntax error."""
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    """Nothing unquoted, unused or misspelt; where shellcheck is installed (Debian: apt-get install shellcheck)."""
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "--external-sources", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", BATCH, ids=lambda script: script.name)
def test_every_job_can_be_requeued(script: Path) -> None:
    """Warned through its batch shell two minutes before its end, requeued, its log continued."""
    asked = set(re.findall(r"^#SBATCH (\S+)", script.read_text(), re.MULTILINE))
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append"} <= asked


@pytest.mark.parametrize("script", BATCH, ids=lambda script: script.name)
def test_a_folder_that_is_no_clone_is_refused(script: Path, tmp_path: Path) -> None:
    """sbatch somewhere else, without ADAPTIVE_FT_HOME: exit code 2 and what to do."""
    own = {name: value for name, value in os.environ.items() if name != "ADAPTIVE_FT_HOME"}
    done = subprocess.run(
        ["bash", script], env={**own, "SLURM_SUBMIT_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{tmp_path} is no clone of adaptive_ft" in done.stderr
    assert "ADAPTIVE_FT_HOME" in done.stderr


def test_a_cpu_build_of_torch_is_refused_on_gpus(tmp_path: Path) -> None:
    """Installed on a login node without a GPU it would train on the CPUs: exit code 2 and what to install."""
    if torch.version.cuda or torch.version.hip:
        pytest.skip("torch is no CPU build here")
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4"}
    own = {**os.environ, **job, "ADAPTIVE_FT_HOME": str(REPOSITORY), "SLURM_SUBMIT_DIR": str(tmp_path)}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    done = subprocess.run(
        ["bash", FOLDER / "train.sbatch"], cwd=tmp_path, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Slurm gave this job GPUs" in done.stderr
    assert "make install TORCH=cuda" in done.stderr


SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_rank_that_is_signalled_with_its_shell_saves_and_its_code_is_told(tmp_path: Path) -> None:
    """Slurm signals both; the shell waits for the rank."""
    rank = subprocess.Popen(
        ["bash", FOLDER / "rank.sh", sys.executable, "-c", SAVES],
        env={**os.environ, "ADAPTIVE_FT_CODES": str(tmp_path), "RANK": "3"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert rank.stdout is not None
    assert rank.stdout.readline() == b"ready\n"
    os.killpg(rank.pid, signal.SIGTERM)
    assert rank.wait(60) == 75
    assert (tmp_path / "3").read_text() == "75\n"


# What the scripts ask of Slurm's programs, and no more; tests/cluster/test_slurm.py asks the real ones.
SCONTROL = """#!/usr/bin/env bash
case "$*" in
  "show hostnames "*) echo n1 ;;
  *"show node"*) echo "NodeName=n1 NodeAddr=127.0.0.1 " ;;
  *"show job"*) echo "JobId=7 JobState=RUNNING " ;;
  "requeue "*) echo "$*" >>requeued ;;
esac
"""


@pytest.fixture
def end_with(tmp_path: Path) -> Callable[..., str]:
    """Run `run_job` of environment.sh over a program that ends with a code, as one start of job 7; what it tells."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text(SCONTROL)
    (tmp_path / "bin/scontrol").chmod(0o755)
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "ADAPTIVE_FT_"))}
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NODELIST": "n1"}
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(code: int, restarts: int, *words: str, granted: int = 2) -> str:
        counts = {"SLURM_RESTART_COUNT": str(restarts), "ADAPTIVE_FT_RESTARTS": str(granted)}
        done = subprocess.run(
            [
                "bash",
                "-c",
                f'home={REPOSITORY}; . "$home/slurm/environment.sh"; run_job bash -c "exit {code}" "$@"',
                "x",
                *words,
            ],
            env={**outside, **slurm, **counts, "PATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


def test_only_crashes_are_counted_against_the_restarts(end_with: Callable[..., str]) -> None:
    """Saved and stopped, however often, is free; between such stops every crash counts."""
    for restarts in range(5):
        assert "saved and stopped; requeued" in end_with(75, restarts)
    assert "ended with code 9 (crash 1, 2 are granted); requeued" in end_with(9, 5)
    assert "saved and stopped; requeued" in end_with(75, 6)
    assert "(crash 2, 2 are granted); requeued" in end_with(9, 7)
    assert "ended with code 9, crash 3; not requeued (ADAPTIVE_FT_RESTARTS=2)" in end_with(9, 8)
    assert "(crash 1, 2 are granted); requeued" in end_with(9, 9), "a person has requeued it"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("runs/x-7", ()),
        ("elsewhere/mine", ("--name", "x-7", "--output_dir", "elsewhere", "--name", "mine")),
        ("elsewhere/mine", ("--name=mine", "--output-dir=elsewhere")),
    ],
)
def test_crashes_of_a_run_that_comes_on_are_not_summed_up(
    run: str, words: tuple[str, ...], end_with: Callable[..., str], tmp_path: Path
) -> None:
    """Only those since the newest checkpoint; one that was lost and written again is no progress."""
    latest = tmp_path / run / "checkpoints/latest"
    latest.parent.mkdir(parents=True)
    for restart, update in enumerate((8, 80, 800)):
        latest.write_text(f"step_{update:06d}\n")
        assert "(crash 1, 2 are granted); requeued" in end_with(9, restart, *words)
    latest.write_text("step_000080\n")
    assert "(crash 2, 2 are granted); requeued" in end_with(9, 3, *words)
    latest.write_text("step_000800\n")
    assert "ended with code 9, crash 3; not requeued" in end_with(9, 4, *words)


def test_a_crash_that_cannot_be_counted_is_not_repeated(end_with: Callable[..., str], tmp_path: Path) -> None:
    """It would be for ever."""
    (tmp_path / "runs/.slurm/7/crashes").mkdir(parents=True)
    assert "not requeued" in end_with(9, 0)
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "REQUEUED", "COMPLETING", "CANCELLED", "TIMEOUT", ""])
def test_what_slurm_itself_ends_is_no_crash(state: str, end_with: Callable[..., str], tmp_path: Path) -> None:
    """A lost node, a preemption or scancel kills the ranks too: nothing is counted or requeued, a crash after it is."""
    scontrol = tmp_path / "bin/scontrol"
    sleep = tmp_path / "bin/sleep"  # a controller that does not answer is asked again and again
    sleep.write_text("#!/bin/sh\n")
    sleep.chmod(0o755)
    assert "(crash 1, 2 are granted); requeued" in end_with(9, 0)
    counted = (tmp_path / "runs/.slurm/7/crashes").read_text()
    scontrol.write_text(SCONTROL.replace("JobState=RUNNING", f"JobState={state}" if state else ""))
    for restarts in range(1, 5):
        told = end_with(143, restarts)
        assert "ended with code 143; Slurm says " in told
        assert "so it is not requeued from here" in told
    assert (tmp_path / "runs/.slurm/7/crashes").read_text() == counted
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    scontrol.write_text(SCONTROL)
    assert "(crash 2, 2 are granted); requeued" in end_with(9, 5)


def test_a_requeue_that_ends_the_one_who_asks_is_told_as_one(end_with: Callable[..., str], tmp_path: Path) -> None:
    """Slurm ends all processes of the job at once, and with them the program that has just told it to."""
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text(SCONTROL.replace('echo "$*" >>requeued', "kill -TERM $$"))
    assert "ended with code 9 (crash 1, 2 are granted); requeued" in end_with(9, 0)
    scontrol.write_text(SCONTROL.replace('echo "$*" >>requeued', "exit 1"))
    assert "so it is not requeued from here" in end_with(9, 1)


def test_without_slurm_there_is_one_sentence() -> None:
    """bash instead of sbatch."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(
        ["bash", FOLDER / "train.sbatch"], cwd=REPOSITORY, env=outside, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: This is a batch script: give it to sbatch.\n")
