"""metrics.jsonl always, without gaps or doubles; wandb and TensorBoard only when asked; plain lines in a log file."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adaptive_ft.errors import UserError
from adaptive_ft.tracking import (
    JsonLines,
    Progress,
    ResumePoint,
    TensorBoard,
    TrackingConfig,
    check_trackers,
    open_trackers,
)


def write_steps(path: Path, *steps: int, resumed_at: int | None = None) -> None:
    lines = JsonLines(path, None if resumed_at is None else ResumePoint(resumed_at))
    for step in steps:
        lines.log(step, {"loss": step / 10})
    lines.close()


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "heat.png"
    Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8)).save(path)
    return path


def test_lines_are_there_at_once(jsonl: Path) -> None:
    """A reader (or a kill) in the midst of the run finds every line that was logged."""
    lines = JsonLines(jsonl, None)
    lines.log(1, {"loss": 0.5, "score": 1})
    assert json.loads(jsonl.read_text()) == {"step": 1, "loss": 0.5, "score": 1}
    lines.close()


def test_resume_cuts_what_came_after_the_checkpoint(jsonl: Path) -> None:
    """Steps 1 to 5, a checkpoint after 3, resumed to 5: every step once."""
    write_steps(jsonl, 1, 2, 3, 4, 5)
    write_steps(jsonl, 4, 5, resumed_at=3)
    assert steps(jsonl) == [1, 2, 3, 4, 5]


def test_the_record_of_an_owed_epoch_is_struck_out(jsonl: Path) -> None:
    """Asked to stop while the epoch was judged, and killed after the next start had recorded it: it comes once more.
    The other line of the same update stays.
    """
    lines = JsonLines(jsonl, None)
    for values in ({"train/loss": 0.5}, {"epoch/epoch": 1.0, "epoch/val_score": 0.5}):
        lines.log(2, values)
    lines.close()
    JsonLines(jsonl, ResumePoint(2)).close()
    assert steps(jsonl) == [2, 2]
    JsonLines(jsonl, ResumePoint(2, owes_epoch=True)).close()
    assert [json.loads(line) for line in jsonl.read_text().splitlines()] == [{"step": 2, "train/loss": 0.5}]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"loss": 1}', "[2]", "7"])
def test_a_torn_last_line_goes(jsonl: Path, torn: str) -> None:
    """A line cut by a kill, or one without a step, does not survive a resume and breaks nothing."""
    write_steps(jsonl, 1, 2)
    with jsonl.open("a") as file:
        file.write(torn)
    write_steps(jsonl, 3, resumed_at=2)
    assert steps(jsonl) == [1, 2, 3]


def test_a_fresh_start_in_a_used_folder_begins_anew(jsonl: Path) -> None:
    """An attempt that died before its first checkpoint leaves lines that no run has."""
    write_steps(jsonl, 0, 1, 2)
    write_steps(jsonl, 0, 1)
    assert steps(jsonl) == [0, 1]


def test_resume_without_a_file_is_fine(jsonl: Path) -> None:
    """Somebody removed metrics.jsonl."""
    write_steps(jsonl, 4, resumed_at=3)
    assert steps(jsonl) == [4]


def test_tensorboard_has_the_same_numbers(tmp_path: Path, picture: Path) -> None:
    """Scalars at their steps, pictures as images, beside metrics.jsonl."""
    trackers = open_trackers(tmp_path, TrackingConfig(report_to=["tensorboard"]), {}, None)
    for tracker in trackers:
        tracker.log(3, {"train/loss": 0.25})
        tracker.picture(3, "curves", picture)
        tracker.close()
    assert steps(tmp_path / "metrics.jsonl") == [3]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.25)]
    assert events.Tags()["images"] == ["curves"]


def test_tensorboard_strikes_out_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """Steps 1 to 3, a checkpoint after 2, resumed: step 3 is there once, with the value of the resumed run."""
    for resumed, values in ((None, {1: 0.1, 2: 0.2, 3: 0.3}), (ResumePoint(2), {3: 0.5})):
        board = TensorBoard(tmp_path, resumed)
        for step, value in values.items():
            board.log(step, {"train/loss": value})
        board.close()
        time.sleep(1.1)  # the files' names carry whole seconds, and are read in the order of their names
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert events.Scalars("train/loss")[-1].value == 0.5


NOTHING_ASKED = """
import sys
from pathlib import Path
import adaptive_ft.trainer
from adaptive_ft.tracking import TrackingConfig, open_trackers
trackers = open_trackers(Path(sys.argv[1]), TrackingConfig(), {}, None)
trackers[0].log(1, {"loss": 1.0})
assert len(trackers) == 1
print(sorted({name.split(".")[0] for name in sys.modules} & {"wandb", "tensorboard"}))
"""
WANDB_ASKED = """
import sys
from pathlib import Path
from adaptive_ft.tracking import ResumePoint, TrackingConfig, open_trackers
config = TrackingConfig(report_to=["wandb"])
for resumed in (None, ResumePoint(1)):
    trackers = open_trackers(Path(sys.argv[1]), config, {"seed": 1}, resumed)
    for tracker in trackers:
        tracker.log(1 if resumed is None else 2, {"loss": 1.0})
        for name in ("curves", "spottune Finetuning Fraction: val", "invariance/stir"):
            tracker.picture(1 if resumed is None else 2, name, Path(sys.argv[2]))
        tracker.close()
"""


def run_python(program: str, environment: dict[str, str], *words: str | Path) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_tracker_is_imported_unless_asked(tmp_path: Path, environment: dict[str, str]) -> None:
    """With the whole trainer loaded and a line logged, neither package is in memory (DeepSpeed and torch know both)."""
    told = run_python(NOTHING_ASKED, environment, tmp_path)
    assert told.splitlines()[-1] == "[]"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_wandb_records_offline_and_goes_on_under_one_id(
    tmp_path: Path, picture: Path, environment: dict[str, str]
) -> None:
    """Asked for, it writes an offline run into the run folder; a resumed run keeps its id; the sync line is told."""
    told = run_python(WANDB_ASKED, {**environment, "WANDB_SILENT": "true"}, tmp_path, picture)
    identity = (tmp_path / "wandb_id").read_text()
    runs = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert runs
    assert all(f"-{identity}" in name for name in runs)
    assert all(list((tmp_path / "wandb" / name).glob("*.wandb")) for name in runs)
    for name in runs:
        kept = sorted((tmp_path / "wandb" / name).rglob("media/images/**/*.png"))
        assert [path.name.split("_")[0] for path in kept] == ["curves", "stir", "spottune Finetuning Fraction: val"]
        assert all(np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(picture))) for path in kept)
    assert told.count("send it with: wandb sync ") == 2
    assert steps(tmp_path / "metrics.jsonl") == [1, 2]


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_missing_package_is_named(tracker: Literal["wandb", "tensorboard"], monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the command that installs it, before any work."""
    check_trackers(TrackingConfig(report_to=[tracker]))
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(UserError, match=rf"{tracker} needs the package {tracker}: pip install 'adaptive-ft\[{tracker}"):
        check_trackers(TrackingConfig(report_to=[tracker]))


def test_a_log_file_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: one line per interval with the facts, none per step, no carriage return."""
    with Progress("train", total=4) as progress:
        for step in range(1, 5):
            progress.advance()
            if step % 2 == 0:
                progress.tell({"loss": f"{1 / step:.2f}"})
        progress.say("epoch 1 is over")
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 1)[0] for line in lines[:2]] == ["train 2/4  loss 0.50", "train 4/4  loss 0.25"]
    assert lines[2:] == ["epoch 1 is over"]


def test_a_line_has_the_speed_since_the_last_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps in four seconds, then two in five: slow ones are not hidden by fast ones, nor rounded to 0."""
    clock = iter([100.0, 104.0, 109.0, 209.0])
    monkeypatch.setattr("adaptive_ft.tracking.time.monotonic", lambda: next(clock))
    progress = Progress("train", total=13)
    for steps in (10, 2, 1):
        for _ in range(steps):
            progress.advance()
        progress.tell({})
    rates = [line.split()[-2] for line in capsys.readouterr().out.splitlines()]
    assert rates == ["2.5", "0.4", "0.01"]


def test_a_rank_that_is_not_shown_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """All ranks but the first count without a word."""
    with Progress("train", total=1, shown=False) as progress:
        progress.advance()
        progress.tell({"loss": "1"})
        progress.say("epoch")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
