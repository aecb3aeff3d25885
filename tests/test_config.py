"""Defaults < YAML < command line, one parser for both, and every mistake named with the way out."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.config import RunConfig, dump_run_config, load_run_config
from adaptive_ft.data.reading.choice import DataConfig
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig
from adaptive_ft.tracking import TrackingConfig


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A YAML that sets something of every kind."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """
        seed: 5
        max_steps: 7
        eval_on_start: false
        optim: {learning_rate: 1e-3, betas: [0.8, 0.95], head_learning_rate: null}
        adapt: {strategy: spottune_block, policy: {kind: mirror}}
        data: {blind: true, tokenizer: some/folder}
        tracking: {report_to: [tensorboard]}
        """
    )
    return path


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    return str(path)


def test_no_argument_gives_the_defaults() -> None:
    """An empty command line is the default config."""
    assert load_run_config([]) == RunConfig()


def test_yaml_replaces_defaults(recipe: Path) -> None:
    """Every kind of value arrives with its type; what the file leaves out stays."""
    config = load_run_config(["--config", str(recipe)])
    assert (config.seed, config.max_steps, config.eval_on_start) == (5, 7, False)
    assert config.optim == OptimConfig(learning_rate=0.001, betas=(0.8, 0.95), head_learning_rate=None)
    assert isinstance(config.optim.learning_rate, float), "1e-3 is a text to YAML and a number to us"
    assert isinstance(config.optim.betas, tuple)
    assert (config.adapt.strategy, config.adapt.policy.kind) == ("spottune_block", "mirror")
    assert (config.data.blind, config.data.tokenizer) == (True, "some/folder")
    assert config.tracking.report_to == ["tensorboard"]
    assert config.precision == RunConfig().precision


@pytest.mark.parametrize("yaml_first", [True, False])
def test_the_command_line_wins_wherever_it_stands(recipe: Path, yaml_first: bool) -> None:
    """Options before --config win as those after it do."""
    own = ["--seed", "9", "--optim.learning-rate", "0.5", "--eval_on_start", "--data.no-blind", "--max_steps", "None"]
    file = [f"--config={recipe}"]
    config = load_run_config(file + own if yaml_first else own + file)
    assert (config.seed, config.optim.learning_rate, config.eval_on_start) == (9, 0.5, True)
    assert (config.data.blind, config.max_steps) == (False, None)
    assert config.optim.betas == (0.8, 0.95), "the rest of the section stays the file's"


def test_lists_are_replaced_not_joined(recipe: Path) -> None:
    """A list or tuple on the command line takes the whole place of the file's."""
    config = load_run_config(["--config", str(recipe), "--optim.betas", "0.1", "0.2", "--tracking.report_to", "wandb"])
    assert config.optim.betas == (0.1, 0.2)
    assert config.tracking.report_to == ["wandb"]


def test_a_later_file_wins(recipe: Path, tmp_path: Path) -> None:
    """Two --config: the second over the first."""
    second = write(tmp_path, "seed: 6")
    config = load_run_config(["--config", str(recipe), "--config", second])
    assert (config.seed, config.max_steps) == (6, 7)


@pytest.mark.parametrize("empty", ["", "# only a remark\n", "model: {}\n"])
def test_an_empty_file_changes_nothing(empty: str, tmp_path: Path) -> None:
    """No key is no change."""
    assert load_run_config(["--config", write(tmp_path, empty)]) == RunConfig()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sead: 1", "unknown key 'sead'. Did you mean 'seed'?"),
        ("optim: {learning_rat: 1}", "unknown key 'optim.learning_rat'. Did you mean 'optim.learning_rate'?"),
        ("adapt: {policy: {knid: light}}", "unknown key 'adapt.policy.knid'. Did you mean 'adapt.policy.kind'?"),
        ("learning_rate: 1", "unknown key 'learning_rate'. Did you mean 'optim.learning_rate'?"),
        ("kind: light", "unknown key 'kind'. Did you mean 'adapt.policy.kind'?"),
        ("hidden_size: 8", "Did you mean 'model.hidden_size' or 'adapt.policy.hidden_size'?"),
        ("optim: {seed: 1}", "unknown key 'optim.seed'. Did you mean 'seed'?"),
        ("optim: 3", "'optim' is a section of options, not the single value 3."),
        ("model:", "'model' is a section of options, not the single value None."),
        ("eval_on_start: 1", "'eval_on_start' must be true or false, not 1."),
        ("eval_on_start: [yes]", "'eval_on_start' must be true or false"),
        ("- seed", "must hold a mapping of options, it holds a list."),
        ("seed: [1", "is not YAML"),
    ],
)
def test_mistakes_in_yaml_are_named(text: str, sentence: str, tmp_path: Path) -> None:
    """File, key, what is wrong, and the nearest name."""
    with pytest.raises(UserError) as told:
        load_run_config(["--config", write(tmp_path, text)])
    assert "wrong.yaml" in str(told.value)
    assert sentence in str(told.value)


def test_a_missing_file_is_named() -> None:
    """Neither a path that is not there nor a --config without one is passed over."""
    with pytest.raises(UserError, match=r"no config file 'nowhere\.yaml'"):
        load_run_config(["--config", "nowhere.yaml"])
    with pytest.raises(UserError, match="--config needs the path"):
        load_run_config(["--config"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sed", "1"], "--seed"),
        (["--optim.learning_rat", "1"], "--optim.learning-rate"),
        (["--seed", "one"], "seed"),
        (["--precision", "fp16"], "bf16"),
        (["--resume", "always"], "auto"),
    ],
)
def test_mistakes_on_the_line_end_with_code_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser's own box names the nearest option or the choices; silently for a rank that does not print."""
    with pytest.raises(SystemExit) as ended:
        load_run_config(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.replace("_", "-")
    with pytest.raises(SystemExit):
        load_run_config(words, loud=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--stategy", "--strategy"),
        ("--stategy=spottune", "--strategy"),
        ("--polcy", "--policy"),
        ("--confg", "--config"),
        ("--deepspeed_confg", "--deepspeed_config"),
    ],
)
def test_a_misspelt_short_name_is_pointed_to_the_right_one(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser knows no short names, so it has none to suggest."""
    with pytest.raises(SystemExit):
        load_run_config([word, "--seed", "1"])
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_run_config(["--nme", "a", "--no-eval-on-start", "--max-steps", "3"])
    told = capsys.readouterr().err
    assert "--name" in told
    assert "Did you mean" not in told, "the parser has said it"


def test_help_names_what_is_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    """--config and the short names are read before the parser, which cannot list them."""
    with pytest.raises(SystemExit) as ended:
        load_run_config(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("--config FILE", "--strategy NAME", "--policy NAME", "recipes/world.yaml"))


def test_a_wrong_value_in_yaml_ends_with_code_2_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One parser converts both."""
    with pytest.raises(SystemExit) as ended:
        load_run_config(["--config", write(tmp_path, "optim: {learning_rate: fast}")])
    assert ended.value.code == 2
    assert "fast" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", [["--local_rank=1"], ["--local_rank", "1"], ["--local-rank=1"]])
def test_the_launchers_word_is_swallowed(launcher: list[str]) -> None:
    """deepspeed puts it before our own options; the rank comes from the environment."""
    assert load_run_config([*launcher, "--seed", "3"]) == RunConfig(seed=3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--deepspeed_config", "x.json"], RunConfig(ds_config="x.json")),
        (["--deepspeed_config=x.json"], RunConfig(ds_config="x.json")),
        (["--ds_config=x.json"], RunConfig(ds_config="x.json")),
        (["--strategy=SpotTune_Block"], RunConfig(adapt=AdaptiveConfig(strategy="SpotTune_Block"))),
        (["--strategy", "last_4"], RunConfig(adapt=AdaptiveConfig(strategy="last_4"))),
        (["--policy=mirror"], RunConfig(adapt=AdaptiveConfig(policy=PolicyConfig(kind="mirror")))),
    ],
)
def test_aliases(words: list[str], expected: RunConfig) -> None:
    """The names other trainers and the original's users type."""
    assert load_run_config(words) == expected


def test_a_saved_config_reads_back_equal(tmp_path: Path, recipe: Path) -> None:
    """config.yaml of a run folder: defaults, and a config with something of every kind."""
    unusual = RunConfig(
        name="a name with spaces: and colons",
        max_steps=3,
        num_train_epochs=0.5,
        adapt=AdaptiveConfig(strategy="specific_k", frozen_layers=(0, 2)),
        data=DataConfig(blind=True, tokenizer=None),
        optim=OptimConfig(learning_rate=1e-30, eps=1e-12),
        tracking=TrackingConfig(report_to=["wandb", "tensorboard"]),
        eval_on_start=False,
    )
    for config in (RunConfig(), unusual, load_run_config(["--config", str(recipe)])):
        path = tmp_path / "config.yaml"
        path.write_text(dump_run_config(config))
        assert load_run_config(["--config", str(path)]) == config


def test_the_saved_config_holds_everything() -> None:
    """Plain YAML of every option, so that a person can read what a run was."""
    assert yaml.safe_load(dump_run_config(RunConfig())).keys() == dataclasses.asdict(RunConfig()).keys()


def test_recipes_are_read(repository: Path) -> None:
    """Every YAML in recipes/ is a whole config."""
    recipes = sorted((repository / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert load_run_config(["--config", str(path)]) != RunConfig()
