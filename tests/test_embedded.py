"""The embedded run: when its recipe applies, and how the base's run is begun."""

import json
from pathlib import Path

import pytest

from adaptive_ft import embedded
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.data.world.config import WorldConfig
from adaptive_ft.embedded import (
    BASE,
    PRETRAINING,
    WORLD,
    begin_pretraining,
    generated_place,
    make_world,
    prepare_embedded,
    pretraining_recipe,
    with_embedded_recipe,
)
from adaptive_ft.engine.living import ALIVE, identity, process_began
from adaptive_ft.engine.preemption import StoppedOnRequest
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import ModelConfig
from adaptive_ft_kernels import dispatch
from tests.conftest import REPOSITORY


def test_the_recipe_applies_only_where_neither_data_nor_a_config_is_named() -> None:
    plain = ["--ds_config", "ds_configs/zero2.json", "--strategy", "standard"]
    config = load_run_config(with_embedded_recipe(plain))
    assert (config.data.train, config.model.name) == (str(WORLD / "target/train"), str(BASE))
    assert config.adapt.strategy == "standard"
    for named in (["--data.train", "x"], ["--config", "y.yaml"], ["--config=y.yaml"], ["--data.val=x"]):
        assert with_embedded_recipe([*plain, *named]) == [*plain, *named]


def test_the_base_is_the_same_for_any_number_of_ranks_that_divide_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others take the next smaller batch, and say so."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig(ds_config="some.json", kernels="reference", model=ModelConfig(name=str(BASE)))
    batches = {ranks: begin_pretraining(config, ranks).per_device_train_batch_size * ranks for ranks in (1, 2, 4)}
    assert set(batches.values()) == {batches[1]}
    assert "cannot share" not in capsys.readouterr().out
    assert begin_pretraining(config, 3).per_device_train_batch_size == batches[1] // 3
    assert "3 ranks cannot share a batch of 128: this pretraining takes 126" in capsys.readouterr().out
    base = begin_pretraining(config, 2)
    assert (base.ds_config, base.kernels, base.export_to) == ("some.json", "reference", str(BASE))


@pytest.mark.parametrize("base", PRETRAINING)
def test_every_base_is_made_by_its_recipe(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe writes the folder it is looked up by, and other bases keep their runs; one reads real questions."""
    monkeypatch.chdir(tmp_path)
    made = begin_pretraining(RunConfig(model=ModelConfig(name=base)), 1)
    assert made.export_to == base
    assert made.model.name is None
    assert (generated_place(made) is None) == (base == "data/base_questions")
    names = [pretraining_recipe(name).name for name in PRETRAINING]
    assert len(set(names)) == len(names)


def test_kernels_that_cannot_run_are_refused_before_minutes_of_work(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dispatch, "_missing_for_triton", lambda kind: "no such device")
    monkeypatch.setattr(dispatch, "_demanded", [])
    monkeypatch.setattr(dispatch, "_chosen", {})
    config = load_run_config(with_embedded_recipe(["--kernels", "triton"]))
    with pytest.raises(UserError, match=r"--kernels triton: .* no such device"):
        prepare_embedded(config, ranks)
    assert not any(tmp_path.iterdir())


SMALL_PRETRAINING = """
data: {train: data/world/source/train, val: data/world/source/val}
model: {name: null, hidden_size: 16, num_attention_heads: 2, intermediate_size: 16, language_layers: 1,
        region_layers: 1, cross_layers: 1, max_position_embeddings: 24}
adapt: {strategy: standard}
name: base
output_dir: data/pretraining
export_to: data/base
eval_on_start: false
max_steps: 3
per_device_train_batch_size: 8
"""
PRETRAINED = Path("data/pretraining/base")
ASIDE = "data/pretraining/base-aside"


@pytest.fixture
def small_pretraining(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """An embedded run whose base is pretrained in three updates, in a folder of its own with the small world."""
    (own,) = PRETRAINING[str(BASE)]
    recipe = tmp_path / "recipes" / own
    recipe.parent.mkdir()
    recipe.write_text(SMALL_PRETRAINING)
    monkeypatch.setattr(embedded, "RECIPES", recipe.parent)
    monkeypatch.chdir(tmp_path)
    WORLD.parent.mkdir()
    WORLD.symlink_to(workplace / "world")
    words = ["--data.train", str(WORLD / "target/train"), "--data.val", str(WORLD / "target/val")]
    stage = str(REPOSITORY / "ds_configs/zero2.json")
    config = load_run_config([*words, "--model.name", str(BASE), "--stop_file", "stop", "--ds_config", stage])
    Path("stop").touch()
    return config


def test_a_pretraining_that_was_stopped_goes_on(
    ranks: Ranks, small_pretraining: RunConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends with the exit code of every stopped run; the same command goes on from its checkpoint."""
    with pytest.raises(StoppedOnRequest) as stopped:
        prepare_embedded(small_pretraining, ranks)
    assert stopped.value.code == 75
    assert "start your own command again instead" in capfd.readouterr().out
    Path("stop").unlink()
    prepare_embedded(small_pretraining, ranks)
    assert "resuming from step_000001" in capfd.readouterr().out
    assert (BASE / "config.json").is_file()


def test_a_pretraining_of_another_kind_is_begun_again(
    ranks: Ranks, small_pretraining: RunConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    """What lies there was written under another ZeRO stage: it is told and set aside, and the base is made."""
    with pytest.raises(StoppedOnRequest):
        prepare_embedded(small_pretraining, ranks)
    Path("stop").unlink()
    Path(f"{ASIDE}-1").mkdir()
    small_pretraining.ds_config = str(REPOSITORY / "ds_configs/zero1.json")
    prepare_embedded(small_pretraining, ranks)
    told = capfd.readouterr().out
    assert "was written with a ZeRO stage (--ds_config) of 2, this run has 1" in told
    assert f"It is kept as '{ASIDE}-2', and the pretraining is begun again." in told
    assert (Path(f"{ASIDE}-2") / "checkpoints/latest").read_text() == "step_000001\n"
    assert list(Path(f"{ASIDE}-1").iterdir()) == [], "what lay there before is left alone"
    assert "nothing to resume from" in told
    assert (BASE / "config.json").is_file()


def test_a_pretraining_that_is_alive_is_left_alone(ranks: Ranks, small_pretraining: RunConfig, sleeper: int) -> None:
    """A second command is refused before anything of the first one is touched."""
    PRETRAINED.mkdir(parents=True)
    holder = {**identity(), "process": sleeper, "began": process_began(sleeper)}
    (PRETRAINED / ALIVE).write_text(json.dumps(holder))
    (PRETRAINED / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=f"A run is alive in '{PRETRAINED}': process {sleeper}"):
        prepare_embedded(small_pretraining, ranks)
    assert {path.name for path in PRETRAINED.iterdir()} == {ALIVE, "metrics.jsonl"}


def test_a_world_is_made_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = make_world(tmp_path / "world", WorldConfig.small())
    assert make_world(tmp_path / "world", WorldConfig.small()) == made
    assert "world source/train" in capfd.readouterr().err
