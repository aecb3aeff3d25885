"""adaptive-ft flips on a real run: what it writes is what it prints, and what has nothing to flip is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.build import build
from adaptive_ft.cli import run_command
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.trainer import Trainer


def test_every_pair_is_written_and_summarised(
    finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(["flips", str(finished_run.path), "--samples", "6", "--batch-size", "4", "--output", str(tmp_path)])
    told = json.loads((tmp_path / "flips.json").read_text())
    agreement = told["agreement"]["predicted_true"]["all"]
    with (tmp_path / "flips.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == agreement["pairs"] == 6 * told["decisions"]
    assert len({line["question_id"] for line in lines}) == told["samples"] == 6
    pairs = [[float(line[f"{way}_change"]) for line in lines] for way in ("predicted", "true")]
    assert agreement["pearson"] == pytest.approx(np.corrcoef(*pairs)[0, 1])
    assert (tmp_path / "flips.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"Pearson {agreement['pearson']:.3f}" in printed
    assert f"in {tmp_path}" in printed


def test_a_run_without_decisions_is_refused(ranks: Ranks, tiny: Callable[..., list[str]]) -> None:
    run = build(load_run_config(tiny("undecided", "--adapt.strategy", "standard", "--max_steps", "1")), ranks)
    Trainer(run).fit()
    with pytest.raises(UserError, match="'standard' has no decisions to flip"):
        run_command(["flips", str(run.folder.path)])


@pytest.mark.parametrize("trained_with", ["first_order", "two_branch"])
def test_a_run_of_one_decision_per_component_has_both_branches(
    ranks: Ranks, tiny: Callable[..., list[str]], tmp_path: Path, finished_run: RunFolder, trained_with: str
) -> None:
    """Whichever gate gradient trained it. Deltas of three updates are small, so that both tell almost the same."""
    options = ("--adapt.strategy", "spottune", "--adapt.gate_gradient", trained_with)
    run = build(load_run_config(tiny(f"trained-{trained_with}", *options)), ranks)
    Trainer(run).fit()
    run_command(["flips", str(run.folder.path), "--samples", "4", "--two-branch", "--output", str(tmp_path)])
    told = json.loads((tmp_path / "flips.json").read_text())
    assert told["decisions"] == sum(run.parts.model.tying.live) < len(run.parts.model.decisions)
    assert 0.9 < told["agreement"]["predicted_two_branch"]["all"]["pearson"] < 1
    with pytest.raises(UserError, match=r"here \d+ components have \d+ decisions: take strategy 'spottune'"):
        run_command(["flips", str(finished_run.path), "--two-branch"])


def test_a_count_of_nothing_is_refused(finished_run: RunFolder) -> None:
    with pytest.raises(UserError, match="--samples and --batch_size count"):
        run_command(["flips", str(finished_run.path), "--samples", "0"])
