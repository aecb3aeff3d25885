"""adaptive-ft export chooses the form, says what it wrote, and refuses what it cannot."""

from pathlib import Path

import pytest
from transformers import LxmertForQuestionAnswering

from adaptive_ft import AdaptiveModel
from adaptive_ft.cli import run_command
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder


def test_one_set_of_weights_becomes_a_plain_model(
    workplace: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A standard run: transformers alone loads it; with --adaptive what was learned stays apart."""
    run = str(workplace / "runs/pretraining")
    run_command(["export", run, str(tmp_path / "plain")])
    assert LxmertForQuestionAnswering.from_pretrained(tmp_path / "plain").config.num_qa_labels
    told = capsys.readouterr().out
    assert f"(best, update 2) is now a plain model in {tmp_path / 'plain'}" in told
    run_command(["export", run, str(tmp_path / "apart"), "--adaptive"])
    assert AdaptiveModel.from_pretrained(None, tmp_path / "apart").count_parameters()["frozen"]


def test_decisions_per_input_stay_adaptive(
    finished_run: RunFolder, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The form is chosen by the run, and the base is named."""
    run_command(["export", str(finished_run.path), str(tmp_path / "out"), "--which", "latest"])
    told = capsys.readouterr().out
    assert f"(latest, update 3) is now an adaptive model in {tmp_path / 'out'}, on the base {tiny_base};" in told
    assert AdaptiveModel.from_pretrained(None, tmp_path / "out").decisions


def test_what_cannot_be_exported_is_said(finished_run: RunFolder, tmp_path: Path) -> None:
    """No run folder; a destination in use."""
    with pytest.raises(UserError, match="is not a run folder"):
        run_command(["export", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(UserError, match="is in use"):
        run_command(["export", str(finished_run.path), str(finished_run.path)])
