"""Asked to stop: what asks, when it is heard, and that all ranks hear the same after the same update."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.preemption import SIGNALS, StoppedOnRequest, StopRequests
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.trainer import Trainer
from tests.conftest import REPOSITORY

# Both ranks go through 30 updates in step. Rank 1 is signalled in the 5th, or the stop file comes in the 7th.
UPDATES = """
import json, os, signal, sys
from pathlib import Path
from adaptive_ft.engine.preemption import StopRequests
from adaptive_ft.engine.ranks import run_ranks

place, asks = Path(sys.argv[1]), sys.argv[2]

def main(ranks):
    told = []
    with StopRequests(ranks, str(place / "stop")) as requests:
        for update in range(1, 31):
            if asks == "signal" and update == 5 and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if asks == "file" and update == 7 and ranks.rank == 0:
                (place / "stop").touch()
            asked = requests.heard()
            if asked:
                told.append([update, asked])
                break
            ranks.barrier()
    (place / f"{ranks.rank}.json").write_text(json.dumps(told))

run_ranks(main)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_told(number: signal.Signals, ranks: Ranks) -> None:
    """Nothing, then the signal, however often it comes; afterwards the handlers are who they were."""
    former = signal.getsignal(number)
    with StopRequests(ranks, None) as requests:
        assert requests.heard() is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert requests.heard() == f"{number.name} at rank 0"
    assert signal.getsignal(number) == former


def test_a_stop_file_is_seen_as_soon_as_it_is_there(ranks: Ranks, tmp_path: Path) -> None:
    """Its path is told."""
    with StopRequests(ranks, str(tmp_path / "stop")) as requests:
        assert requests.heard() is None
        (tmp_path / "stop").touch()
        assert requests.heard() == f"the stop file {tmp_path / 'stop'}"


@pytest.mark.launch
@pytest.mark.parametrize(
    ("asks", "update", "words"), [("signal", 6, "SIGTERM at rank 1"), ("file", 8, "the stop file ")]
)
def test_two_ranks_hear_it_after_the_same_update(
    asks: str, update: int, words: str, start_by_hand: Callable[..., list[Popen[str]]], tmp_path: Path
) -> None:
    """One update after it was asked, on the rank that was asked as on the other."""
    (tmp_path / "updates.py").write_text(UPDATES)
    for rank in start_by_hand(2, tmp_path / "updates.py", tmp_path, asks):
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    ((heard_at, asked),) = first
    assert heard_at == update
    assert asked.startswith(words)


Fit = Callable[..., dict[str, Any]]
DONE = "summary.json"


@pytest.fixture
def stop(tmp_path: Path) -> Path:
    """The stop file of `fit`, which is there."""
    path = tmp_path / "stop"
    path.touch()
    return path


@pytest.fixture
def fit(tiny: Callable[..., list[str]], ranks: Ranks, tmp_path: Path, stop: Path) -> Fit:
    """Start, or go on with, the run `name` in `tmp_path` with more options; its summary."""

    def started(name: str, *more: str) -> dict[str, Any]:
        place = ("--output_dir", str(tmp_path), "--stop_file", str(stop), "--resume", "auto")
        words = tiny(name, *place, "--no_eval_on_start", *more)
        return Trainer(build(load_run_config(words), ranks)).fit()

    return started


def test_a_run_that_is_asked_saves_and_leaves_with_75(
    fit: Fit, stop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stop file is there from the start: one update, a whole checkpoint, a sentence, no summary. Without it the
    run goes on to its end.
    """
    with pytest.raises(StoppedOnRequest) as stopped:
        fit("asked")
    assert stopped.value.code == 75
    told = f"stopped at update 1 on request (the stop file {stop}); continue with --name asked --resume auto"
    assert told in capsys.readouterr().out.splitlines()
    folder = RunFolder(tmp_path / "asked")
    assert folder.checkpoints.newest_whole() == ("step_000001", [])
    assert not (folder.path / DONE).exists()
    with pytest.raises(StoppedOnRequest):
        fit("asked")
    assert folder.checkpoints.pointed("latest") == "step_000002"
    stop.unlink()
    assert fit("asked")["steps"] == 3


def test_a_run_asked_while_it_is_judged_is_judged_at_the_next_start(fit: Fit, stop: Path, tmp_path: Path) -> None:
    """The update is saved without its score, which then is that of a run that nobody has asked."""
    for _ in range(2):  # asked again before anything has come of the second start
        with pytest.raises(StoppedOnRequest):
            fit("judged", "--max_steps", "1")
    folder = RunFolder(tmp_path / "judged")
    assert folder.checkpoints.newest_whole() == ("step_000001", [])
    assert folder.checkpoints.pointed("best") is None
    stop.unlink()
    found, undisturbed = fit("judged", "--max_steps", "1"), fit("undisturbed", "--max_steps", "1")
    own = {"name", "seconds"}
    assert {name: value for name, value in found.items() if name not in own} == {
        name: value for name, value in undisturbed.items() if name not in own
    }
    assert found["epochs"] == 1
    assert folder.checkpoints.pointed("best") == "step_000001"


def test_a_run_asked_before_its_first_update_has_nothing_to_save(fit: Fit, stop: Path, tmp_path: Path) -> None:
    """It is judged at its start, and leaves with the same code."""
    with pytest.raises(StoppedOnRequest):
        fit("early", "--eval_on_start")
    assert RunFolder(tmp_path / "early").checkpoints.newest_whole() == (None, [])
    stop.unlink()
    assert fit("early", "--eval_on_start")["steps"] == 3


def test_a_finished_run_asked_while_further_sets_are_judged_goes_on_with_them(
    fit: Fit, stop: Path, workplace: Path, tmp_path: Path
) -> None:
    """Nothing is written of a set that has not been judged whole."""
    stop.unlink()
    assert fit("further")["steps"] == 3
    further = ("--data.also_val", str(workplace / "world/target/val_indomain"))
    stop.touch()
    with pytest.raises(StoppedOnRequest):
        fit("further", *further)
    judged = RunFolder(tmp_path / "further").also_val_file
    assert not judged.exists()
    stop.unlink()
    fit("further", *further)
    assert judged.exists()


@pytest.mark.launch
def test_two_ranks_leave_an_evaluation_together(
    tiny: Callable[..., list[str]], start_by_hand: Callable[..., list[Popen[str]]], stop: Path, tmp_path: Path
) -> None:
    """Rank 0 alone sees the stop file; the next start judges, and both end well."""
    words = tiny(
        "both", "--output_dir", str(tmp_path), "--stop_file", str(stop), "--resume", "auto", "--max_steps", "1"
    )
    for code in (75, 0):
        ranks = start_by_hand(2, REPOSITORY / "train.py", *words)
        for rank in ranks:
            _, errors = rank.communicate(timeout=120)
            assert rank.returncode == code, errors
        stop.unlink(missing_ok=True)
    assert (tmp_path / "both" / DONE).exists()
