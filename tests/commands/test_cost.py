"""adaptive-ft cost: what it refuses before a model is built (what it measures: tests/comparing/test_step_cost.py)."""

from pathlib import Path

import pytest

from adaptive_ft.commands.cost import Command
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError


def test_a_comparison_that_measures_no_costs_is_told(ranks: Ranks, tmp_path: Path) -> None:
    """With what to add."""
    path = tmp_path / "comparison.yaml"
    path.write_text(f"output_dir: {tmp_path / 'out'}\nreference: standard\nrows: {{standard: {{}}}}\n")
    with pytest.raises(UserError, match=r"does not say how costs are measured: add cost: \{rounds: 3, updates: 10\}"):
        Command(path).measure_on(ranks)
    assert not (tmp_path / "out").exists()
