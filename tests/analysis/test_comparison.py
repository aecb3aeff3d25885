"""The table of several seeds: means and deviations that a second count confirms, every run shown, nothing made up."""

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.analysis.comparison import (
    ComparedRow,
    Comparison,
    as_markdown,
    as_text,
    cells,
    constants_told,
    header,
    official_told,
    priors_told,
    row_numbers,
    run_numbers,
    seed_run,
    spread,
)
from adaptive_ft.analysis.comparison_files import write_comparison
from adaptive_ft.analysis.report.compared_table import read_table
from adaptive_ft.errors import UserError

VALIDATION = {"near": "data/near", "far": "data/far"}


def run_folder(place: Path, name: str, train: float, near: float, far: float, **changes: Any) -> Path:
    """What the table reads of a finished run."""
    folder = place / name
    folder.mkdir()
    (folder / "config.yaml").write_text("adapt: {strategy: spottune}\n")
    summary = {
        "strategy": "spottune", "policy": "light", "train_score": train, "val_score": near, "gap": train - near,
        "start_val_score": 0.5, "tuned_share": 0.25, "trainable_parameters": 2_000_000, "frozen_parameters": 1_000_000,
        "seconds": 60.0, "best_constant": {"answer": "yes", "score": 0.2}, **changes,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    told = {
        "data/far": {"score": far, "official_accuracy": far - 0.01, "best_constant": {"answer": "no", "score": 0.3}}
    }
    (folder / "also_val.json").write_text(json.dumps(told))
    lines = [{"step": step, "time/peak_memory_gib": peak} for step, peak in ((1, 0.5), (2, 0.75))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    scores = {1: (0.9, 0.7, 0.8), 2: (0.8, 0.7, 0.6)}
    runs = [seed_run(run_folder(tmp_path, f"a-seed{seed}", *told), seed, VALIDATION) for seed, told in scores.items()]
    alone = seed_run(run_folder(tmp_path, "b-seed1", 0.5, 0.25, 0.5, tuned_share=None), 1, VALIDATION)
    rows = [ComparedRow("a", runs, (1.5, 1.0, 1.25)), ComparedRow("b", [alone]), ComparedRow("c", [])]
    return Comparison(list(VALIDATION), rows, ["A note."])


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    mean, deviation = spread([0.8, 0.6, 0.7])
    assert mean == pytest.approx(0.7)
    assert deviation == pytest.approx(statistics.stdev([0.8, 0.6, 0.7]))
    assert spread([0.5]) == (0.5, None)


def test_a_row_is_the_mean_over_its_seeds(comparison: Comparison) -> None:
    """Its gaps are those of each validation set; a single seed has no deviation, a row without runs has no numbers."""
    first, second, third = (dict(zip(header(comparison), row, strict=True)) for row in cells(comparison))
    assert first == {
        "Row": "a", "Seeds": "2", "Train": "85.00 ± 7.07", "Val near": "70.00 ± 0.00", "Gap near": "+15.00 ± 7.07",
        "Val far": "70.00 ± 14.14", "Gap far": "+15.00 ± 7.07", "Parameters (M)": "2.00 + 1.00", "Tuned": "25 ± 0 %",
        "Step cost": "1.25 (1.00 to 1.50)", "Peak GiB": "0.75",
    }  # fmt: skip
    assert (second["Train"], second["Gap near"], second["Tuned"], second["Step cost"]) == ("50.00", "+25.00", "–", "–")
    assert set(third.values()) == {"c", "0", "–"}


def test_a_cost_that_is_the_same_in_every_round_has_no_range(comparison: Comparison) -> None:
    """As that of the reference."""
    rows = [ComparedRow("a", comparison.rows[0].runs, costs) for costs in ((1.25,), (0.999, 1.001))]
    place = header(comparison).index("Step cost")
    assert [row[place] for row in cells(replace(comparison, rows=rows))] == ["1.25", "1.00"]


def test_markdown_shows_every_run(comparison: Comparison) -> None:
    told = as_markdown(comparison)
    assert "| a | 2 | 85.00 ± 7.07 |" in told
    assert "\nA note.\n" in told
    assert "| a | 1 | 90.00 | 70.00 | 80.00 | 25 % | 60 |\n| a | 2 | 80.00 | 70.00 | 60.00 | 25 % | 60 |" in told
    widths = {len(line.split("|")) for line in told.split("\n\n")[0].splitlines()}
    assert len(widths) == 1


def test_the_terminal_gets_the_same_cells(comparison: Comparison) -> None:
    head, _, *rows = as_text(comparison).splitlines()
    assert head.split()[:3] == ["Row", "Seeds", "Train"]
    assert [row.split()[0] for row in rows] == ["a", "b", "c", "A"]
    assert rows[0].endswith("1.25 (1.00 to 1.50)      0.75")


def test_the_files_hold_every_number(comparison: Comparison, tmp_path: Path) -> None:
    table = write_comparison(comparison, tmp_path / "out")
    assert read_table(tmp_path / "out") == table
    assert table.figure == (tmp_path / "out/comparison.png").read_bytes()
    with (tmp_path / "out/comparison.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["a", "b", "c"]
    first = row_numbers(comparison)[0]
    assert float(rows[0]["val_far_sd"]) == first["val_far_sd"] == pytest.approx(statistics.stdev([0.8, 0.6]))
    assert (rows[0]["step_cost_least"], rows[0]["step_cost"], rows[0]["step_cost_most"]) == ("1.0", "1.25", "1.5")
    with (tmp_path / "out/comparison_runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert [(run["row"], run["seed"], float(run["gap_far"])) for run in runs] == [
        (run["row"], str(run["seed"]), run["gap_far"]) for run in run_numbers(comparison)
    ]
    assert (tmp_path / "out/comparison.md").read_text(encoding="utf-8") == as_markdown(comparison)


def test_the_official_accuracy_is_told_where_there_is_one(comparison: Comparison) -> None:
    """The summaries, as those of pictures, have none of the first set; the files hold it run by run."""
    assert official_told(comparison) == ["Official accuracy, far: a 69.00 ± 14.14, b 49.00."]
    assert [run["official_far"] for run in run_numbers(comparison)] == pytest.approx([0.79, 0.59, 0.49])
    assert {run["official_near"] for run in run_numbers(comparison)} == {None}
    first, _, third = row_numbers(comparison)
    assert first["official_far_mean"] == pytest.approx(0.69)
    assert third["official_far_mean"] is first["official_near_mean"] is None


def test_what_there_is_to_beat_is_told_once(comparison: Comparison) -> None:
    assert constants_told(comparison) == (
        "Best constant answer: near 'yes' 20.00; far 'no' 30.00. The pretrained base before training: 50.00 (near)."
    )
    assert priors_told({"near": 0.25, "far": 0.125}) == [
        "Best answer of each type of question in training: near 25.00; far 12.50."
    ]
    assert priors_told({}) == []


def test_bases_that_differ_are_told_by_the_first_row_of_each(tmp_path: Path) -> None:
    """In the order of the rows: sorted numbers would be taken for it."""
    starts = {"b": 0.625, "b_gated": 0.625, "a": 0.5}
    folders = {row: run_folder(tmp_path, row, 0.9, 0.8, 0.7, start_val_score=start) for row, start in starts.items()}
    rows = [ComparedRow(row, [seed_run(folder, 1, VALIDATION)]) for row, folder in folders.items()]
    told = constants_told(Comparison(list(VALIDATION), rows, []))
    assert told.endswith(" The pretrained base before training: 62.50 of b, 50.00 of a (near).")


def test_a_folder_without_a_comparison_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no comparison\.json: name the output_dir"):
        read_table(tmp_path)
    (tmp_path / "comparison.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="is not what adaptive-ft compare writes"):
        read_table(tmp_path)
