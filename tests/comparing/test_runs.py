"""Which runs of a comparison are finished, and which programs make the others."""

import json
from pathlib import Path

import pytest

from adaptive_ft.comparing.recipe import PlannedRun, Recipe, load_recipe
from adaptive_ft.comparing.runs import is_finished, measurement, preparation, training
from adaptive_ft.config import dump_run_config, load_run_config
from adaptive_ft.errors import UserError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "comparison.yaml"
    path.write_text(
        "output_dir: runs\njobs: 2\nreference: a\nrows: {a: {}, b: {adapt: {strategy: last_1}}}\n"
        "options: {data: {train: data/world/target/train}, model: {name: data/base}}\n"
        "validation: {near: data/world/target/val, far: data/world/target/val_indomain}\n"
    )
    return load_recipe(path)


def lay(run: PlannedRun, *files: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(dump_run_config(run.config))
    for file in files:
        (run.folder / file).write_text(json.dumps({address: {} for address in run.config.data.also_val}))


def test_a_run_is_finished_when_it_has_ended_and_is_judged_everywhere(recipe: Recipe) -> None:
    run = recipe.runs()[0]
    assert not is_finished(run)
    lay(run)
    assert not is_finished(run)
    lay(run, "summary.json")
    assert not is_finished(run)
    lay(run, "also_val.json")
    assert is_finished(run)
    (run.folder / "also_val.json").write_text("{}")  # asked to stop before the first of them was judged
    assert not is_finished(run)
    for damaged in ("{", "[]"):
        (run.folder / "also_val.json").write_text(damaged)
        assert not is_finished(run), "the run judges them again"


def test_a_run_of_other_options_is_no_run_of_the_comparison(recipe: Recipe) -> None:
    """It is never thrown away, and never told as what it is not."""
    run = recipe.runs()[0]
    lay(run, "summary.json", "also_val.json")
    run.config.num_train_epochs = 9
    with pytest.raises(UserError, match=r"a-seed1' is a run with other options .*num_train_epochs: 4\S* -> 9"):
        is_finished(run)


def test_a_run_is_started_with_its_options_in_a_file(recipe: Recipe) -> None:
    """train.py reads back what was planned."""
    run = recipe.runs()[1]
    job = training(recipe, run)
    assert Path(job.words[0]).name == "train.py"
    assert load_run_config(job.words[1:]) == run.config
    assert (job.name, job.log, job.ranks) == ("b-seed1", Path("runs/logs/b-seed1.log"), 1)


def test_what_runs_stand_on_is_made_once_before_them(recipe: Recipe) -> None:
    """By all cores at once; nothing is left to make where it is there, and other people's data is their own."""
    (job,) = preparation(recipe, recipe.runs())
    assert (job.name, job.ranks) == ("making data/world and data/base", 2)
    assert load_run_config(["--config", job.words[-1]]) == recipe.runs()[0].config
    Path("data/world").mkdir(parents=True)
    assert len(preparation(recipe, recipe.runs())) == 1
    Path("data/base").mkdir()
    assert len(preparation(recipe, recipe.runs())) == 1  # half deleted
    Path("data/base/config.json").touch()
    assert preparation(recipe, recipe.runs()) == []
    for run in (runs := recipe.runs()):
        run.config.data.train, run.config.model.name = "elsewhere/train", "someone/model"
    assert preparation(recipe, runs) == []


def test_the_cost_is_measured_on_the_ranks_of_a_run(recipe: Recipe) -> None:
    assert measurement(recipe).words[-2:] == ("cost", str(recipe.path))
    assert measurement(recipe).ranks == recipe.ranks
