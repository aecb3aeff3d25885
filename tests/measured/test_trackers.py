"""Figures of a finished run for its trackers: which of them can take some is known beforehand."""

import sys
from pathlib import Path

import pytest

from adaptive_ft.config import RunConfig
from adaptive_ft.errors import UserError
from adaptive_ft.measured.trackers import late_trackers
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tracking import TrackingConfig


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """That of a run that reports to both trackers and still goes on."""
    found = RunFolder(tmp_path / "run")
    found.path.mkdir()
    found.begin(RunConfig(tracking=TrackingConfig(report_to=["wandb", "tensorboard"])))
    return found


def test_a_run_that_goes_on_gets_nothing(folder: RunFolder) -> None:
    assert late_trackers(folder) == []
    folder.write_summary({"steps": 4})
    assert [(late.tracking.report_to, late.step) for late in late_trackers(folder)] == [
        (["wandb"], 4),
        (["tensorboard"], 4),
    ]


def test_what_is_no_run_has_no_trackers(tmp_path: Path) -> None:
    assert late_trackers(RunFolder(tmp_path)) == []


def test_a_tracker_that_is_not_installed_is_named_and_the_others_stay(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_summary({"steps": 4})
    monkeypatch.setitem(sys.modules, "wandb", None)
    (late,) = late_trackers(folder)
    assert late.tracking.report_to == ["tensorboard"]
    told = capsys.readouterr().out
    assert told.startswith(f"'{folder.path}' reports to wandb, which gets no figures: ")
    assert told.endswith("pip install 'adaptive-ft[wandb]'.\n")


def test_a_tracker_that_refuses_is_told_without_the_way_out_of_a_run(folder: RunFolder) -> None:
    """What it was about to take is measured and written."""
    folder.write_summary({"steps": 4})
    (folder.path / "tensorboard").write_text("no folder")
    _, late = late_trackers(folder)
    with pytest.raises(UserError, match="All is measured and written, but tensorboard did not take") as told:
        late.give([])
    assert "exists" in str(told.value)
    assert "--resume" not in str(told.value)
