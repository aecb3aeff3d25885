"""The cost of a step: every row in every round, relative to the reference of its round, kept for the same recipe."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_ft.comparing import step_cost
from adaptive_ft.comparing.recipe import CostPlan, Recipe
from adaptive_ft.comparing.step_cost import StepCosts, load_costs, measure
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.errors import UserError

Tiny = Callable[..., list[str]]
PLAN = CostPlan(rounds=2, updates=2)


def recipe_of(tmp_path: Path, rows: dict[str, RunConfig]) -> Recipe:
    return Recipe(
        path=tmp_path / "comparison.yaml", output_dir=tmp_path, runs_dir=tmp_path, seeds=(1,), rows=rows,
        validation={"val": "v"}, reference="standard", cost=PLAN, ranks=1, jobs=1,
    )  # fmt: skip


def test_every_row_is_measured_in_every_round_there_and_back(
    ranks: Ranks, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real steps; a row that cannot be built is told and left out, and no folder of a run stays."""
    words = tiny("unused")
    rows = {
        name: load_run_config([*words, "--adapt.strategy", strategy])
        for name, strategy in (("standard", "standard"), ("block", "spottune_block"), ("last", "last_99"))
    }
    order: list[str] = []
    really = step_cost.seconds_of_update

    def noted(config: RunConfig, *others: object) -> float:
        order.append(config.adapt.strategy)
        return really(config, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(step_cost, "seconds_of_update", noted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    costs = measure(recipe_of(tmp_path, rows), PLAN, ranks, Watchdog(ranks, 600))
    assert order == ["standard", "spottune_block", "last_99", "spottune_block", "standard"]
    assert {name: len(seconds) for name, seconds in costs.seconds.items()} == {"standard": 2, "block": 2}
    assert all(second > 0 for seconds in costs.seconds.values() for second in seconds)
    assert "last_99" in costs.refused["last"]
    assert not any((tmp_path / "own").iterdir())


def test_a_row_refused_in_a_later_round_has_no_cost(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others keep theirs, round by round."""
    answers: Iterator[float | UserError] = iter([1.0, 2.0, UserError("no room"), 4.0])

    def measured(*_: object) -> float:
        answer = next(answers)
        if isinstance(answer, UserError):
            raise answer
        return answer

    monkeypatch.setattr(step_cost, "seconds_of_update", measured)
    rows = {"standard": RunConfig(), "other": RunConfig()}
    costs = measure(recipe_of(tmp_path, rows), PLAN, ranks, Watchdog(ranks, 600))
    assert costs.relative_to("standard") == {"standard": [1, 1]}
    assert costs.refused == {"other": "no room"}


def test_a_cost_is_relative_to_its_own_round() -> None:
    costs = StepCosts("f", 1, 1, 2, {"standard": [1.0, 4.0], "other": [2.0, 4.0]})
    assert costs.relative_to("standard") == {"standard": [1, 1], "other": [2, 1]}
    assert costs.relative_to("gone") == {}


def test_what_was_measured_is_kept_for_the_same_recipe_alone(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, {"standard": RunConfig()})
    path = tmp_path / "cost.json"
    assert load_costs(path, recipe) is None
    costs = StepCosts(recipe.fingerprint, 1, 2, 2, {"standard": [0.5]}, {"last": "no such layer"})
    costs.save(path)
    assert load_costs(path, recipe) == costs
    assert load_costs(path, replace(recipe, cost=CostPlan(rounds=9))) is None
    for damaged in ("{", "[]", json.dumps({"fingerprint": recipe.fingerprint})):
        path.write_text(damaged)
        assert load_costs(path, recipe) is None, damaged
