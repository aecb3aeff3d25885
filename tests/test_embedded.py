"""The embedded run: when its recipe applies, and how the base's run is begun; every recipe can be read."""

from pathlib import Path

import pytest

from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.data.world.config import WorldConfig
from adaptive_ft.embedded import (
    BASE,
    PRETRAINING,
    RECIPES,
    WORLD,
    begin_pretraining,
    generated_place,
    make_world,
    prepare_embedded,
    with_embedded_recipe,
)
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import ModelConfig
from adaptive_ft_kernels import dispatch


def test_the_recipe_applies_only_where_neither_data_nor_a_config_is_named() -> None:
    plain = ["--ds_config", "ds_configs/zero2.json", "--strategy", "standard"]
    config = load_run_config(with_embedded_recipe(plain))
    assert (config.data.train, config.model.name) == (str(WORLD / "target/train"), str(BASE))
    assert config.adapt.strategy == "standard"
    for named in (["--data.train", "x"], ["--config", "y.yaml"], ["--config=y.yaml"], ["--data.val=x"]):
        assert with_embedded_recipe([*plain, *named]) == [*plain, *named]


def test_the_base_is_the_same_for_any_number_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(ds_config="some.json", kernels="reference", model=ModelConfig(name=str(BASE)))
    batches = {ranks: begin_pretraining(config, ranks).per_device_train_batch_size * ranks for ranks in (1, 2, 4)}
    assert set(batches.values()) == {batches[1]}
    base = begin_pretraining(config, 2)
    assert (base.ds_config, base.kernels, base.export_to) == ("some.json", "reference", str(BASE))


@pytest.mark.parametrize("base", PRETRAINING)
def test_every_base_is_made_by_its_recipe(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe writes the folder it is looked up by, and other bases keep their runs."""
    monkeypatch.chdir(tmp_path)
    made = begin_pretraining(RunConfig(model=ModelConfig(name=base)), 1)
    assert made.export_to == base
    assert made.model.name is None
    assert generated_place(made) is not None
    names = [load_run_config(["--config", str(RECIPES / recipe)]).name for recipe in PRETRAINING.values()]
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


def test_an_interrupted_pretraining_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(model=ModelConfig(name=str(BASE)))
    base = begin_pretraining(config, 1)
    left_over = Path(base.output_dir) / str(base.name) / "checkpoints" / "latest"
    left_over.parent.mkdir(parents=True)
    left_over.write_text("step_000001")
    begin_pretraining(config, 2)
    assert not left_over.exists()


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_a_config(recipe: Path) -> None:
    config = load_run_config(["--config", str(recipe)])
    assert config.data.train
    assert config.data.val


def test_a_world_is_made_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = make_world(tmp_path / "world", WorldConfig.small())
    assert make_world(tmp_path / "world", WorldConfig.small()) == made
    assert "world source/train" in capfd.readouterr().err
