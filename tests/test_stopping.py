"""A run that is asked to stop, in training or while it is judged: what it leaves, and how the next start goes on."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.preemption import StoppedOnRequest, StopRequests
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.recorder import Recorder
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tasks.vqa import VqaTask
from adaptive_ft.tracking import TRACKER_ID
from adaptive_ft.trainer import Trainer
from tests.conftest import REPOSITORY

Fit = Callable[..., dict[str, Any]]
DONE = "summary.json"
CLOCK = re.compile("^time/|stall")


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


def test_a_checkpoint_holds_by_which_id_a_tracker_knows_the_run(fit: Fit, stop: Path, tmp_path: Path) -> None:
    """Where the folder's own file is lost, as when only its checkpoints were copied, the curves go on all the same."""
    identity = tmp_path / "tracked" / TRACKER_ID
    for _ in range(2):
        with pytest.raises(StoppedOnRequest):
            fit("tracked")
        identity.write_text("0a1b2c3d")
    stop.unlink()
    identity.unlink()
    fit("tracked")
    assert identity.read_text() == "0a1b2c3d"


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


TWO_EPOCHS = (
    *("--per_device_train_batch_size", "61", "--max_steps", "4", "--per_device_eval_batch_size", "16"),
    *("--adapt.eval_decisions", "global", "--save_total_limit", "1"),
)


@pytest.fixture
def ask_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the next run be asked when it listens for the n-th time."""

    def asked_then(number: int) -> None:
        listened = itertools.count(1)
        monkeypatch.setattr(StopRequests, "heard", lambda _: "the test" if next(listened) == number else None)

    return asked_then


def recorded(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not CLOCK.search(name)} for line in lines]


def of_one_run(run: Path) -> dict[str, object]:
    """What two runs that are the same have in common: weights, numbers, pictures, pointers."""
    checkpoints = RunFolder(run).checkpoints
    kept = sorted(path.name for path in checkpoints.folder.glob("step_*"))
    return {
        "weights": (checkpoints.folder / kept[-1] / "adaptive/adaptive_model.safetensors").read_bytes(),
        "kept": kept,
        "metrics": recorded(run),
        "plots": {path.name: path.read_bytes() for path in (run / "plots").glob("usage_*.csv")},
        "pointers": [checkpoints.pointed(pointer) for pointer in ("best", "latest")],
    }


@pytest.mark.parametrize("heard_at", [2, 4], ids=["before its first batch", "between two batches"])
def test_a_run_stopped_in_an_evaluation_ends_as_an_undisturbed_one(
    heard_at: int, fit: Fit, stop: Path, tmp_path: Path, ask_at: Callable[[int], None]
) -> None:
    """Two epochs of two updates: it listens after update 1, then before each batch that judges the first epoch. Bit for
    bit, with decisions for all inputs, of which the stopped checkpoint keeps those of before.
    """
    stop.unlink()
    ask_at(heard_at)
    with pytest.raises(StoppedOnRequest):
        fit("stopped", *TWO_EPOCHS)
    checkpoints = RunFolder(tmp_path / "stopped").checkpoints
    assert checkpoints.newest_whole() == ("step_000002", [])
    description = json.loads((checkpoints.folder / "step_000002/adaptive/adaptive_config.json").read_text())
    assert description["global_decisions"] is None
    ask_at(0)
    assert fit("stopped", *TWO_EPOCHS)["steps"] == fit("undisturbed", *TWO_EPOCHS)["steps"] == 4
    assert of_one_run(tmp_path / "stopped") == of_one_run(tmp_path / "undisturbed")


def test_an_epoch_that_is_recorded_and_not_saved_is_recorded_once(
    fit: Fit, stop: Path, tmp_path: Path, ask_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it was judged; then judged, recorded, and cut off before the checkpoint was whole."""
    stop.unlink()
    ask_at(2)
    with pytest.raises(StoppedOnRequest):
        fit("once", *TWO_EPOCHS)
    ask_at(0)
    with monkeypatch.context() as broken:
        broken.setattr("adaptive_ft.trainer.save_checkpoint", Mock(side_effect=ConnectionError))
        with pytest.raises(ConnectionError):
            fit("once", *TWO_EPOCHS)
    assert sum("epoch/epoch" in line for line in recorded(tmp_path / "once")) == 1
    fit("once", *TWO_EPOCHS)
    assert [line["epoch/epoch"] for line in recorded(tmp_path / "once") if "epoch/epoch" in line] == [1, 2]


def test_what_has_diverged_in_the_answers_so_far_is_not_saved(
    fit: Fit, stop: Path, tmp_path: Path, ask_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends for that, not for the request."""
    stop.unlink()

    logits = VqaTask.logits

    def no_numbers(task: VqaTask, outputs: Any) -> Tensor:
        found = logits(task, outputs)
        return found if found.requires_grad else torch.full_like(found, math.nan)

    monkeypatch.setattr(VqaTask, "logits", no_numbers)
    ask_at(3)
    with pytest.raises(UserError, match="diverged in the evaluation after update 2"):
        fit("diverged", *TWO_EPOCHS)
    assert RunFolder(tmp_path / "diverged").checkpoints.newest_whole() == (None, [])


def test_who_leaves_is_not_judged_for_making_no_step(
    fit: Fit, ask_at: Callable[[int], None], stop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker may take its time to close."""
    stop.unlink()
    ask_at(1)
    doing: list[str] = []
    close = Recorder.close

    def noted(recorder: Recorder) -> None:
        doing.append(recorder.run.watch.place.doing)
        close(recorder)

    monkeypatch.setattr(Recorder, "close", noted)
    with pytest.raises(StoppedOnRequest):
        fit("leaving", "--eval_on_start")
    assert doing == ["leaving"]


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
