"""What a finished run leaves for a person: numbers per interval and epoch, pictures with their tables, the summary."""

import csv
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adaptive_ft.analysis.table import read_rows
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.recorder import sentence, show_outcome
from adaptive_ft.run_folder import RunFolder


@pytest.fixture
def lines(finished_run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished_run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def summary(finished_run: RunFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((finished_run.path / "summary.json").read_text())
    return content


def test_every_interval_has_its_line(lines: list[dict[str, Any]]) -> None:
    """Loss, score, gradient norm, one learning rate per group, and the speed under time/."""
    windows = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in windows] == [1, 2, 3]
    for line in windows:
        assert {"train/score", "train/gradient_norm", "time/examples_per_second"} <= set(line)
        assert {name for name in line if name.startswith("learning_rate/")} == {
            f"learning_rate/{group}" for group in ("delta", "other", "head", "policy")
        }
        assert all(math.isfinite(value) for value in line.values())


def test_the_pretrained_model_comes_first(lines: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """The first line is the score before any update; the summary repeats it."""
    assert (lines[0]["step"], lines[0]["val/score"]) == (0, summary["start_val_score"])


def test_the_epoch_line_holds_the_gap(lines: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """gap = train - val, and the summary's row is the last epoch's."""
    epoch = lines[-1]
    assert (epoch["step"], epoch["epoch/epoch"]) == (3, 1)
    assert epoch["epoch/gap"] == pytest.approx(epoch["epoch/train_score"] - epoch["epoch/val_score"])
    for name in ("train_score", "val_score", "gap", "official_accuracy"):
        assert summary[name] == epoch[f"epoch/{name}"]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert epoch["epoch/loss"] == pytest.approx(sum(losses) / 3)


def test_pictures_have_their_tables(finished_run: RunFolder) -> None:
    """A heatmap per split and the curves, each a real PNG with a CSV of its numbers beside it."""
    names = ("usage_train_epoch01", "usage_val_epoch01", "curves")
    for name in names:
        with Image.open(finished_run.plots / f"{name}.png") as picture:
            assert min(picture.size) > 100
        with (finished_run.plots / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file))
    assert {path.stem for path in finished_run.plots.iterdir()} == set(names)


def test_the_summary_is_a_row_of_the_table(finished_run: RunFolder, summary: dict[str, Any], ranks: Ranks) -> None:
    """The strategy table reads it; parameters, steps and ranks are those of the run."""
    rows, skipped = read_rows([finished_run.path])
    assert (len(rows), skipped) == (1, [])
    assert (rows[0].name, rows[0].strategy, rows[0].policy) == ("finished", "spottune_block", "light")
    assert (summary["steps"], summary["world_size"], summary["epochs"]) == (3, ranks.world_size, 1)
    assert summary["best_val_score"] == summary["val_score"]
    assert summary["best_step"] == 3
    assert 0 < summary["best_constant"]["score"] <= 1
    assert summary["trainable_parameters"] > summary["frozen_parameters"] > 0


def test_the_config_beside_it_is_the_runs(finished_run: RunFolder) -> None:
    """config.yaml says what was run."""
    config = load_run_config(["--config", str(finished_run.config_file)])
    assert (config.name, config.max_steps, config.adapt.strategy) == ("finished", 3, "spottune_block")


def test_the_outcome_names_the_next_steps(finished_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """The table with this run in it, where the pictures lie, and how to evaluate."""
    show_outcome(finished_run.path)
    told = capsys.readouterr().out
    assert "finished" in told
    assert f"pictures   {finished_run.plots}" in told
    assert f"adaptive-ft eval --checkpoint {finished_run.path}" in told


def test_the_outcome_leaves_out_runs_on_other_data(
    finished_run: RunFolder, summary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their scores could not be compared."""
    for name, more in {"mine": {}, "alike": {}, "alien": {"val_data": "another"}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({**summary, "name": name, **more}))
    show_outcome(tmp_path / "mine")
    told = capsys.readouterr().out
    assert "alike" in told
    assert "alien" not in told


def test_runs_that_are_removed_meanwhile_fail_no_finished_run(
    summary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person clears up beside it, or removes the run itself as its last line comes."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/summary.json").write_text(json.dumps({**summary, "name": "mine"}))
    clearing = threading.Event()

    def come_and_go() -> None:
        while not clearing.is_set():
            (tmp_path / "other").mkdir()
            (tmp_path / "other/summary.json").write_text("{}")
            shutil.rmtree(tmp_path / "other")

    person = threading.Thread(target=come_and_go)
    person.start()
    for _ in range(200):
        show_outcome(tmp_path / "mine")
    clearing.set()
    person.join()
    assert capsys.readouterr().out.count("mine  ") >= 200
    shutil.rmtree(tmp_path / "mine")
    show_outcome(tmp_path / "mine")
    assert "pictures   " in capsys.readouterr().out


@pytest.mark.parametrize(("official", "told"), [(0.5, "  official 50.00"), (None, "")])
def test_an_epoch_in_one_sentence(official: float | None, told: str) -> None:
    """Percent with the sign of the gap; no official accuracy where answers of ten people are missing."""
    record = {
        "epoch": 2,
        "loss": 1.23456,
        "train_score": 0.75,
        "val_score": 0.5,
        "gap": 0.25,
        "official_accuracy": official,
        "tuned_share_val": 0.4,
    }
    assert sentence(record) == f"epoch 2  loss 1.235  train 75.00  val 50.00  gap +25.00{told}  tuned 40 %"


def test_runs_leave_nothing_temporary(finished_run: RunFolder) -> None:
    """No half-written file stays behind a run that has finished."""
    assert not [path for path in Path(finished_run.path).rglob("*") if path.suffix in (".tmp", ".partial")]
