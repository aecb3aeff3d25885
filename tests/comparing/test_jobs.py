"""Programs side by side: all are run, failures are told by their logs, none outlives a comparison that ends early."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from adaptive_ft.commands.compare import stopped_by_sigterm
from adaptive_ft.comparing import jobs
from adaptive_ft.comparing.jobs import Job, environment_of_jobs, run_jobs

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.02)


def job(place: Path, name: str, program: str) -> Job:
    return Job(name, ("-c", program, str(place)), place / f"logs/{name}.log")


def test_all_are_run_and_a_failure_ends_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence is this start's error, not what an earlier start has left in the same log."""
    bad = job(tmp_path, "bad", "print('error: no such layer.'); print('and more'); raise SystemExit(2)")
    bad.log.parent.mkdir()
    bad.log.write_text("error: of yesterday\n")
    good = [job(tmp_path, name, f"open('{tmp_path / name}', 'w')") for name in ("one", "two", "three")]
    (failed,) = run_jobs([good[0], bad, *good[1:]], 2, "compare")
    assert all((tmp_path / name).exists() for name in ("one", "two", "three"))
    assert str(failed) == f"bad ended with exit code 2: error: no such layer (log: {bad.log})."
    assert capsys.readouterr().out.count("compare ") == 4, "a line for each end"


def test_nothing_to_do_is_done_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_jobs([], 2, "compare") == []
    assert capsys.readouterr().out == ""


def test_as_many_run_at_once_as_asked_for(tmp_path: Path) -> None:
    """Each waits until the other has begun, which only two side by side can; alone a job sees nobody else."""
    meet = """
import pathlib, sys, time
place = pathlib.Path(sys.argv[1])
own = place / f'{time.time_ns()}.met'
own.touch()
while len(list(place.glob('*.met'))) < 2: time.sleep(0.01)
"""
    assert run_jobs([job(tmp_path, name, meet) for name in ("a", "b")], 2, "compare") == []
    alone = """
import pathlib, sys, time
own = pathlib.Path(sys.argv[1]) / 'taken'
own.touch(exist_ok=False)
time.sleep(0.1)
own.unlink()
"""
    assert run_jobs([job(tmp_path, name, alone) for name in ("c", "d", "e")], 1, "compare") == []


def test_a_stopped_comparison_waits_until_its_runs_have_saved(tmp_path: Path) -> None:
    """SIGTERM to us becomes one to each run; exit code 75 as of every run that was asked to stop."""
    saves = """
import pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
def save(*_):
    time.sleep(0.2)
    (place / 'saved').touch()
    raise SystemExit(75)
signal.signal(signal.SIGTERM, save)
(place / 'ready').touch()
time.sleep(600)
"""

    def ask() -> None:
        patience = time.monotonic() + PATIENCE
        while not (tmp_path / "ready").exists() and time.monotonic() < patience:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(SystemExit) as ended, stopped_by_sigterm():
        run_jobs([job(tmp_path, "run", saves)], 1, "compare")
    asking.join()
    assert ended.value.code == 75
    assert (tmp_path / "saved").exists()


DEAF = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize("asked_again", [False, True], ids=["waits", "asked again"])
def test_one_that_does_not_stop_is_ended(asked_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it has been waited for, and at once where a person loses patience first."""
    monkeypatch.setattr(jobs, "PARTING_SECONDS", 600.0 if asked_again else 0.2)
    waited = Popen.wait

    def interrupt(running: object) -> dict[str, float]:
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt
        return {}

    def wait(process: Any, timeout: float | None = None) -> int:
        if timeout is not None and asked_again:
            raise KeyboardInterrupt
        return waited(process, timeout)

    monkeypatch.setattr(jobs, "_shares", interrupt)
    monkeypatch.setattr(Popen, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "deaf", DEAF)], 1, "compare")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_job_is_started_as_a_person_would(tmp_path: Path) -> None:
    words = ("train.py", "--config", "a.yaml")
    assert Job("a", words, tmp_path).command == [sys.executable, *words]
    launched = Job("a", words, tmp_path, ranks=2).command
    assert launched[1:3] == ["-m", "torch.distributed.run"]
    assert launched[-4:] == ["2", *words]


def test_the_cores_are_shared_out_and_a_launcher_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert environment_of_jobs(2, {"RANK": "3", "HOME": "/h"}) == {
        "OMP_NUM_THREADS": "4", "HOME": "/h", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    assert environment_of_jobs(100, {})["OMP_NUM_THREADS"] == "1"
    assert environment_of_jobs(2, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
