"""Runs that name the same base and data and stood on others are no table."""

import json
from pathlib import Path

import pytest

from adaptive_ft.comparing.ground import check_ground, check_sets
from adaptive_ft.comparing.recipe import PlannedRun, load_recipe
from adaptive_ft.errors import UserError

FACTS = {"frozen_sha256": "one", "train_data": "two", "val_data": "three"}


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    """Two rows of one base, one of another, all finished."""
    path = tmp_path / "comparison.yaml"
    shared = "{data: {train: train, val: val}, model: {name: base}}"
    rows = "{a: {}, b: {}, c: {model: {name: other}}}"
    sets = "{near: val, far: farther}"
    path.write_text(f"output_dir: {tmp_path / 'runs'}\noptions: {shared}\nvalidation: {sets}\nrows: {rows}\n")
    runs = load_recipe(path).runs()
    for run in runs:
        finish(run)
    return runs


def finish(run: PlannedRun, **facts: str | None) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "summary.json").write_text(json.dumps({**FACTS, **facts}))
    (run.folder / "also_val.json").write_text(json.dumps({"farther": {"data": facts.get("far", "four")}}))


def test_data_that_is_not_there_is_told_before_any_run(runs: list[PlannedRun]) -> None:
    """All of it in one go, each set once, however many runs name it."""
    with pytest.raises(UserError) as refused:
        check_sets(runs)
    for place in ("train", "val", "farther"):
        assert str(refused.value).count(f"'{place}'") == 1
    runs[0].config.data.train = ""
    with pytest.raises(UserError, match=r"No shards are named: give data\.train under 'options', and validation"):
        check_sets(runs)


def test_runs_of_one_base_and_of_another_name_are_a_table(runs: list[PlannedRun]) -> None:
    """A model without a frozen half, and a summary of before, say nothing about it."""
    finish(runs[2], frozen_sha256="another")
    check_ground(runs)
    finish(runs[1], frozen_sha256=None)
    check_ground(runs)


def test_weights_that_nothing_names_and_parts_of_a_model_are_their_own(runs: list[PlannedRun]) -> None:
    """Each seed draws others; the first layers of a model are not the whole of it."""
    finish(runs[1], frozen_sha256="another")
    for changed, value in (("name", None), ("layers", 2)):
        former = getattr(runs[1].config.model, changed)
        setattr(runs[1].config.model, changed, value)
        check_ground(runs)
        setattr(runs[1].config.model, changed, former)
    with pytest.raises(UserError):
        check_ground(runs)


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        ("frozen_sha256", r"'base' \(--model\.name\)"),
        ("train_data", r"'train' \(--data\.train\)"),
        ("val_data", r"'val' \(--data\.val\)"),
        ("far", r"'farther' \(--data\.also_val\)"),
    ],
)
def test_what_was_made_anew_between_two_runs_is_named(fact: str, told: str, runs: list[PlannedRun]) -> None:
    finish(runs[1], **{fact: "made anew"})
    with pytest.raises(UserError, match=rf"a-seed1' and '.*b-seed1' do not belong in one table: {told} was something"):
        check_ground(runs)
