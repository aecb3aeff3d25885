"""A comparison's YAML: rows over what all share, run by run as train.py reads it, and mistakes told in one sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptive_ft.comparing.recipe import CostPlan, load_recipe
from adaptive_ft.config import RunConfig, dump_run_config, load_run_config, yaml_arguments
from adaptive_ft.embedded import BASE, pretraining_recipe
from adaptive_ft.errors import UserError
from adaptive_ft.strategies import DECIDED, canonical
from tests.conftest import REPOSITORY

RECIPES = sorted((REPOSITORY / "recipes/compare").glob("*.yaml"))
BY_MAKE = ("world", "world_small", "vqa_blind", "clothing")  # named as targets of make
STUDIES = sorted((REPOSITORY / "recipes/compare").glob("study_*.yaml"))


def written(place: Path, **changes: Any) -> Path:
    """A comparison of two rows; None takes a key away."""
    (place / "shared.yaml").write_text("num_train_epochs: 3\nper_device_train_batch_size: 8\n")
    (place / "row.yaml").write_text("per_device_train_batch_size: 2\nadapt: {strategy: last_1}\n")
    content: dict[str, Any] = {
        "output_dir": str(place / "runs"),
        "config": [str(place / "shared.yaml")],
        "options": {"data": {"train": "here/train"}, "num_train_epochs": 5},
        "seeds": [1, 7],
        "validation": {"near": "here/val", "far": "there/val"},
        "reference": "standard",
        "cost": {"rounds": 2},
        "rows": {"standard": {"adapt": {"strategy": "standard"}}, "last": {"config": str(place / "row.yaml")}},
        **changes,
    }
    path = place / "comparison.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
    )
    return path


def test_a_row_goes_over_what_all_rows_share(tmp_path: Path) -> None:
    """Files, then options, then the row's file and its options; the first validation set is judged in every epoch."""
    recipe = load_recipe(written(tmp_path))
    last, standard = recipe.rows["last"], recipe.rows["standard"]
    assert (last.adapt.strategy, last.per_device_train_batch_size, last.num_train_epochs) == ("last_1", 2, 5)
    assert (standard.per_device_train_batch_size, standard.data.train) == (8, "here/train")
    assert (last.data.val, last.data.also_val) == ("here/val", ("there/val",))
    assert recipe.cost == CostPlan(rounds=2)


def test_every_row_meets_every_seed_in_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = load_recipe(written(tmp_path)).runs()
    assert [run.folder.name for run in runs] == ["standard-seed1", "last-seed1", "standard-seed7", "last-seed7"]
    assert {(run.config.seed, run.config.resume, run.config.output_dir) for run in runs} == {
        (seed, "auto", str(tmp_path / "runs")) for seed in (1, 7)
    }


def test_without_further_sets_the_column_is_val(tmp_path: Path) -> None:
    options = {"data": {"train": "t", "val": "v"}}
    assert load_recipe(written(tmp_path, validation=None, options=options)).validation == {"val": "v"}


def test_the_jobs_of_the_command_win(tmp_path: Path) -> None:
    path = written(tmp_path, jobs=3)
    assert load_recipe(path).jobs == 3
    assert load_recipe(path, 5).jobs == 5


def test_the_fingerprint_is_that_of_what_a_step_costs(tmp_path: Path) -> None:
    """Other seeds or another place change no step; another rank of the deltas does."""
    plain = load_recipe(written(tmp_path)).fingerprint
    assert load_recipe(written(tmp_path, seeds=[3], output_dir="x")).fingerprint == plain
    rows = {"standard": {"adapt": {"strategy": "standard", "delta_rank": 2}}, "last": {}}
    assert load_recipe(written(tmp_path, rows=rows)).fingerprint != plain


def test_a_default_that_changes_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs of another version's default were once kept for this one's."""
    recipe = load_recipe(written(tmp_path))
    before = recipe.fingerprint
    changed = {
        name: replace(row, adapt=replace(row.adapt, gate_grad_fraction=0.1)) for name, row in recipe.rows.items()
    }
    monkeypatch.setattr("adaptive_ft.comparing.recipe.RunConfig", lambda: changed["standard"])
    assert replace(recipe, rows=changed).fingerprint != before


def test_a_reference_alone_asks_for_no_costs(tmp_path: Path) -> None:
    """The other rows are held against it in the figure then."""
    assert load_recipe(written(tmp_path, cost=None)).cost is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sedes": [1]}, r"unknown key 'sedes'\. Did you mean 'seeds'\?"),
        ({"cost": {"round": 1}}, r"unknown key 'cost\.round'\. Did you mean 'rounds'\?"),
        ({"options": {"num_train_epoch": 1}}, r"unknown key 'num_train_epoch'\. Did you mean 'num_train_epochs'\?"),
        (
            {"rows": {"a": {"adapt": {"stratgy": "x"}}}},
            r"unknown key 'adapt\.stratgy'\. Did you mean 'adapt.strategy'\?",
        ),
        ({"rows": {"a": {"adapt": {"strategy": "spotune"}}}}, r"'spotune'.* Did you mean 'spottune'"),
        ({"rows": {"a": {"seed": 3}}}, "sets 'seed' of a run"),
        ({"rows": {"a/b": {}}}, "the row 'a/b' names folders"),
        ({"rows": {"a": 3}}, "the row 'a' holds options, not the single value 3"),
        ({"rows": {}}, "has no 'rows'"),
        ({"output_dir": None}, "has no 'output_dir'"),
        ({"seeds": [1, 1]}, r"seeds are \[1, 1\]"),
        ({"seeds": 3}, "'seeds' is a list, not 3"),
        ({"validation": {"near": None}}, "validation .near. is the address of shards, not None"),
        ({"reference": "standart"}, r"the reference 'standart' is no row\. Did you mean 'standard'\?"),
        ({"ranks": 0}, "ranks is 0"),
        ({"data": {}}, r"unknown key 'data'\. It is an option of runs: give it under 'options'\."),
        ({"rows": {"a": {"adapt": {"strategy": "spotune"}}}}, r"^row 'a': unknown strategy 'spotune'"),
        ({"options": {"adapt": {"strategy": "spotune"}}}, "^unknown strategy 'spotune'"),
        ({"seed": [1]}, r"Did you mean 'seeds'\?"),
        ({"cost": {"updates": 0}}, r"cost\.updates is 0; it must be at least 1"),
        ({"cost": {"rounds": 0}}, r"cost\.rounds is 0; it must be at least 1\. To measure no costs, leave cost out"),
        ({"reference": None}, "cost is relative to a row, and there is no reference"),
        ({"options": {"per_device_train_batch_size": 0}}, "per_device_train_batch_size is 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    if "rows" in changes:
        changes = {"reference": None, "cost": None, **changes}
    with pytest.raises(UserError, match=sentence):
        load_recipe(written(tmp_path, **changes))


def test_what_is_no_comparison_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no comparison"):
        load_recipe(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="must hold a mapping, it holds a list"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    for name in ("bad", "bytes"):
        with pytest.raises(UserError, match=rf"{name}\.yaml' is not YAML"):
            load_recipe(tmp_path / f"{name}.yaml")


def test_runs_may_lie_elsewhere_than_tables(tmp_path: Path) -> None:
    """So that comparisons share those that are named alike."""
    table, runs = tmp_path / "table", tmp_path / "runs"
    recipe = load_recipe(written(tmp_path, output_dir=str(table), runs_dir=str(runs)))
    assert recipe.output_dir == table
    assert {run.folder.parent for run in recipe.runs()} == {runs}
    assert {run.folder.parent for run in load_recipe(written(tmp_path, output_dir=str(table))).runs()} == {table}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_comparison_of_ours_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the top of the checkout, with what it names there, and a reference to tell costs by."""
    monkeypatch.chdir(REPOSITORY)
    recipe = load_recipe(path)
    assert recipe.output_dir == Path("runs/compare") / path.stem
    assert recipe.reference in recipe.rows
    assert len(recipe.validation) > 1


def test_the_whole_table_has_every_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    rows = load_recipe(Path("recipes/compare/world.yaml")).rows.values()
    named = {canonical(row.adapt.strategy) for row in rows}
    assert {*DECIDED, "standard", "pretrained_frozen", "specific_k", "last_2"} <= named
    assert {row.adapt.policy.kind for row in rows} >= {"light", "mirror", "learned"}
    assert any(row.adapt.delta_rank for row in rows)
    base = load_run_config(yaml_arguments(Path("recipes/world.yaml")))
    assert {(row.num_train_epochs, row.optim.learning_rate) for row in rows} == {
        (base.num_train_epochs, base.optim.learning_rate)
    }, "all rows train alike"


def test_comparisons_of_one_place_share_the_runs_that_are_named_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of that name with other options would be refused."""
    monkeypatch.chdir(REPOSITORY)
    known: dict[Path, RunConfig] = {}
    runs = [run for path in RECIPES for run in load_recipe(path).runs()]
    for run in runs:
        assert known.setdefault(run.folder, run.config) == run.config
    assert len(known) < len(runs)


@pytest.mark.parametrize(
    ("beside", "owner", "shared"),
    [
        ("defaults", "world", {"standard", "spottune_light"}),
        ("without_gates", "world", {"standard", "low_rank_4", "spottune_light", "random"}),
        ("without_gates_bases", "study_bases", {"base_2", "base_2_temperature_5", "base_3", "base_3_temperature_5"}),
    ],
)
def test_what_is_held_against_rows_of_another_comparison_shares_their_runs(
    beside: str, owner: str, shared: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same seeds, judged on the same sets."""
    monkeypatch.chdir(REPOSITORY)
    mine, other = (load_recipe(Path(f"recipes/compare/{name}.yaml")) for name in (beside, owner))
    assert (mine.seeds, mine.validation) == (other.seeds, other.validation)
    folders = {run.folder for run in other.runs()}
    assert {run.row for run in mine.runs() if run.folder in folders} == shared


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem not in BY_MAKE], ids=lambda path: path.stem)
def test_the_evidence_names_the_command_of_every_comparison(path: Path) -> None:
    evidence = (REPOSITORY / "docs/evidence.md").read_text(encoding="utf-8")
    assert f"adaptive-ft compare recipes/compare/{path.name}\n" in evidence


def how_the_base_is_made(row: RunConfig) -> str:
    """How the base of a run is made, but for its name and what is drawn in making it."""
    base = pretraining_recipe(str(row.model.name))
    return dump_run_config(replace(base, name=None, export_to=None, seed=0))


def test_a_study_may_be_laid_beside_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same epochs, learning rate, data and kind of base, and other seeds, or other bases; the rows of a study
    differ, and the page of comparisons names it."""
    monkeypatch.chdir(REPOSITORY)
    table = load_recipe(Path("recipes/compare/world.yaml"))
    compared = Path("docs/compare.md").read_text(encoding="utf-8")
    for path in STUDIES:
        study = load_recipe(path)
        assert study.validation == table.validation
        on_base_of_table = str(BASE) in {row.model.name for row in study.rows.values()}
        assert not (on_base_of_table and set(study.seeds) & set(table.seeds))
        shared = {
            (row.num_train_epochs, row.optim.learning_rate, row.data.train, how_the_base_is_made(row))
            for row in (*study.rows.values(), *table.rows.values())
        }
        assert len(shared) == 1
        assert len({dump_run_config(row) for row in study.rows.values()}) == len(study.rows) > 1
        assert f"| `{path.stem}` |" in compared
