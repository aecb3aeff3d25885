"""Two runs in one folder at a time: refused on proof of life, never on a guess, and never a requeued job."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.engine import living
from adaptive_ft.engine.generation import next_generation
from adaptive_ft.engine.living import ALIVE, SignOfLife, identity, process_began, refuse_second_run
from adaptive_ft.errors import UserError


def write(folder: Path, **changed: Any) -> None:
    (folder / ALIVE).write_text(json.dumps({**identity(), **changed}))


def test_nobody_is_there(tmp_path: Path) -> None:
    """No file, or one that a kill has torn."""
    refuse_second_run(tmp_path)
    (tmp_path / ALIVE).write_text("{")
    refuse_second_run(tmp_path)


def test_a_living_process_of_this_machine_is_refused_by_number(tmp_path: Path, sleeper: int) -> None:
    """Also one that is suspended: it would go on writing when it wakes up."""
    write(tmp_path, process=sleeper, began=process_began(sleeper))
    os.kill(sleeper, signal.SIGSTOP)
    with pytest.raises(UserError, match=f"A run is alive in '{tmp_path}': process {sleeper} on "):
        refuse_second_run(tmp_path)


def test_a_dead_process_and_another_one_of_its_number_are_not(tmp_path: Path, sleeper: int) -> None:
    """Ended and not yet collected by its parent, or the number given to a later process."""
    write(tmp_path, process=sleeper, began="1")
    refuse_second_run(tmp_path)
    write(tmp_path, process=sleeper, began=process_began(sleeper))
    os.kill(sleeper, signal.SIGKILL)
    while process_began(sleeper):
        time.sleep(0.01)
    refuse_second_run(tmp_path)


def test_a_requeued_job_is_never_refused(tmp_path: Path, sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job in another life takes the folder over from a process that hangs; another job does not."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    write(tmp_path, process=sleeper, began=process_began(sleeper))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    refuse_second_run(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with pytest.raises(UserError, match="A run is alive"):
        refuse_second_run(tmp_path)


def test_one_process_may_train_again_in_its_folder(tmp_path: Path) -> None:
    """A notebook that resumes what failed in it."""
    write(tmp_path)
    refuse_second_run(tmp_path)


def test_on_another_machine_only_a_new_sign_of_life_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recent sign alone may be that of a machine that has just died; an old one is not waited for."""
    monkeypatch.setattr(living, "BEAT_SECONDS", 0.4)
    generation = next_generation(tmp_path)
    with SignOfLife(generation):
        write(tmp_path, machine="elsewhere", host="node7")
        with pytest.raises(UserError, match=r"process \d+ on node7"):
            refuse_second_run(tmp_path)
    write(tmp_path, machine="elsewhere")
    refuse_second_run(tmp_path)
    monkeypatch.setattr(living, "BEAT_SECONDS", 1e6)
    os.utime(tmp_path / ALIVE, (0, 0))
    refuse_second_run(tmp_path)


def test_the_sign_of_life_goes_with_the_run_unless_it_is_another_ones(tmp_path: Path) -> None:
    """A run that was taken over leaves the new one's file."""
    with SignOfLife(next_generation(tmp_path)):
        assert json.loads((tmp_path / ALIVE).read_text())["process"] == os.getpid()
    assert not (tmp_path / ALIVE).exists()
    with SignOfLife(next_generation(tmp_path)):
        next_generation(tmp_path)
    assert (tmp_path / ALIVE).exists()


def test_a_sign_of_life_is_kept_from_its_showing_to_the_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown while the model is built, kept by the training, gone with it, and shown again by the next training."""
    monkeypatch.setattr(living, "BEAT_SECONDS", 0.05)
    sign, path = SignOfLife(next_generation(tmp_path)), tmp_path / ALIVE
    sign.show()
    os.utime(path, (0, 0))
    while path.stat().st_mtime == 0:
        time.sleep(0.01)
    for _ in range(2):
        with sign:
            assert path.exists()
        assert not path.exists()


def test_ranks_beside_the_first_show_none(tmp_path: Path) -> None:
    """They have no generation to show it for."""
    with SignOfLife(None):
        assert not list(tmp_path.iterdir())
