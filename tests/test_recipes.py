"""Every recipe is read by the parser of train.py, alone and with a strategy of the original's tables on top."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptive_ft.comparing.recipe import load_recipe
from adaptive_ft.config import load_run_config
from adaptive_ft.strategies import CONSTANT, DECIDED, canonical
from adaptive_ft.tasks.vqa_inputs import LEAST_PAIR

# In word pieces: the longest of VQA v2 have 23 words and marks, and rare words are of several pieces.
LONGEST_QUESTION = 28

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "recipes"
RUNS = sorted(RECIPES.glob("*.yaml"))
STRATEGIES = sorted((RECIPES / "strategies").glob("*.yaml"))

# The original's values, from its cfgs/vqa/base_4x16G_fp32.yaml and its lxmert/run/vqa_finetune.bash.
BOTH = {
    "precision": "fp32",
    "model.hidden_size": 768,
    "model.num_attention_heads": 12,
    "model.intermediate_size": 3072,
    "model.hidden_dropout": 0.1,
    "model.attention_dropout": 0.1,
    "adapt.temperature": 5.0,
    "adapt.final_temperature": None,
    "adapt.gate_gradient": "first_order",
    "adapt.gate_grad_fraction": 1.0,
    "adapt.delta_rank": None,
    "adapt.policy.kind": "mirror",
    "optim.betas": (0.9, 0.999),
    "optim.eps": 1e-6,
    "optim.decay": "all",
    "optim.head_learning_rate": None,
    "losses.constrain_k_scale": 0.0,
    "losses.deterministic_scale": 0.0,
}
VL_BERT = BOTH | {
    "seed": 12345,
    "num_train_epochs": 10,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 4,  # for its 4 GPUs
    "data.tokenizer": "bert-base-uncased",
    "model.name": "data/vl-bert-base-prec.model",
    "model.type": "vl_bert",
    "model.answers": None,
    "model.layers": 12,
    "model.first_layers": False,
    "model.visual_scale_init": 0.0,
    "model.coordinate_waves": 256,
    "adapt.policy.layers": 2,
    "adapt.policy.intermediate_size": 512,
    "adapt.policy.init_from_base": False,
    "task.flip_probability": 0.5,
    "task.resize_boxes": True,
    "optim.learning_rate": 4e-5,
    "optim.policy_learning_rate": 4e-5,
    "optim.weight_decay": 1e-4,
    "optim.warmup_steps": 500,
    "optim.max_grad_norm": 1.0,
}
LXMERT = BOTH | {
    "seed": 9595,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "model.answers": "data/all_ans.json",
    "model.language_layers": 9,
    "model.region_layers": 5,
    "model.cross_layers": 5,
    "adapt.strategy": "spottune",
    "adapt.policy.language_layers": 2,
    "adapt.policy.region_layers": 1,
    "adapt.policy.cross_layers": 1,
    "task.max_question_length": 20,
    "task.flip_probability": 0.0,
    "task.resize_boxes": False,
    "optim.learning_rate": 5e-5,
    "optim.policy_learning_rate": 1e-4,
    "optim.weight_decay": 0.01,
    "optim.warmup_ratio": 0.1,
    "optim.warmup_steps": None,
    "optim.max_grad_norm": 5.0,
}
OF_THE_ORIGINAL = {
    "vlbert_vqa": VL_BERT | {"data.train": "data/vqa2014/train", "data.val": "data/vqa2014/val"},
    "vlbert_vqacp": VL_BERT | {"adapt.strategy": "standard"},
    "lxmert_vqa": LXMERT | {"data.train": "data/vqa/train", "data.val": "data/vqa/minival"},
    "lxmert_vqacp": LXMERT,
}
# What each strategy file sets, in full.
SET_BY_STRATEGY: dict[str, dict[str, Any]] = {
    "standard": {"adapt.strategy": "standard"},
    "frozen": {"adapt.strategy": "pretrained_frozen"},
    "last_4": {"adapt.strategy": "last_4"},
    "specific_k": {"adapt.strategy": "specific_k", "adapt.frozen_layers": [2, 3, 9, 10]},
    "four_layers": {"adapt.strategy": "standard", "model.layers": 4, "model.first_layers": True},
    "spottune": {"adapt.strategy": "spottune"},
    "spottune_block": {"adapt.strategy": "spottune_block"},
    "spottune_res": {"adapt.strategy": "spottune_res"},
    "blockdrop": {"adapt.strategy": "blockdrop"},
    "blockdrop_constrain_k": {
        "adapt.strategy": "blockdrop",
        "losses.constrain_k": 4,
        "losses.constrain_k_scale": 1,
        "losses.deterministic_scale": 1,
    },
    "blockdrop_global": {
        "adapt.strategy": "blockdrop",
        "adapt.eval_decisions": "global",
        "losses.constrain_k": 4,
        "losses.constrain_k_scale": 1,
        "losses.deterministic_scale": 1,
    },
}


def name(path: Path) -> str:
    return path.stem


def differing(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> set[str]:
    """The options, written with dots, in which two configs differ."""
    found = set()
    for key, value in first.items():
        if isinstance(value, dict):
            found |= differing(value, second[key], f"{prefix}{key}.")
        elif value != second[key]:
            found.add(f"{prefix}{key}")
    return found


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The options by names written with dots."""
    found = {}
    for key, value in options.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("recipe", OF_THE_ORIGINAL)
def test_a_recipe_holds_the_values_of_the_original(recipe: str) -> None:
    """Set in the file or by default: what the parser makes of it counts."""
    made = flat(dataclasses.asdict(load_run_config(["--config", str(RECIPES / f"{recipe}.yaml")])))
    wanted = OF_THE_ORIGINAL[recipe]
    assert {option: made[option] for option in wanted} == wanted


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_a_strategy_file_sets_what_its_row_of_the_table_says(strategy: Path) -> None:
    """That, and nothing else."""
    assert flat(yaml.safe_load(strategy.read_text(encoding="utf-8"))) == SET_BY_STRATEGY[strategy.stem]


def test_no_strategy_file_and_no_row_is_missing() -> None:
    table = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in STRATEGIES} == set(SET_BY_STRATEGY)
    assert {file for file in SET_BY_STRATEGY if f"`strategies/{file}.yaml`" in table} == set(SET_BY_STRATEGY)


@pytest.mark.parametrize("recipe", OF_THE_ORIGINAL)
def test_the_data_of_a_recipe_is_made_by_a_command_of_the_documentation(recipe: str) -> None:
    """Folder by folder, each for one recipe of a data set: regions of another kind do not hide under one name."""
    told = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    made = re.findall(r"adaptive-ft shards --output (\S+)", told)
    config = load_run_config(["--config", str(RECIPES / f"{recipe}.yaml")])
    assert made.count(config.data.train) == 1
    assert made.count(config.data.val) == 1
    others = [load_run_config(["--config", str(RECIPES / f"{other}.yaml")]) for other in OF_THE_ORIGINAL]
    assert sum(other.data.train == config.data.train for other in others) == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(
    ("target", "comparison", "others"),
    [("table-questions", "vqa_blind", ["questions_pretrain"]), ("table-clothing", "clothing", [])],
)
def test_make_makes_the_data_of_a_comparison_on_real_data(
    target: str, comparison: str, others: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every folder that the comparison or its base names, where none is there yet."""
    words = ["make", "-n", "-f", str(REPOSITORY / "Makefile"), "-o", ".venv/.installed", target]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    made = re.findall(r"--output (\S+)", told)
    monkeypatch.chdir(REPOSITORY)
    configs = list(load_recipe(RECIPES / "compare" / f"{comparison}.yaml").rows.values())
    configs += [load_run_config(["--config", str(RECIPES / f"{other}.yaml")]) for other in others]
    named = {folder for config in configs for folder in (config.data.train, config.data.val, *config.data.also_val)}
    assert named <= set(made)
    assert len(set(made)) == len(made)
    assert f"adaptive-ft compare recipes/compare/{comparison}.yaml" in told


@pytest.mark.parametrize("recipe", RUNS, ids=name)
def test_a_recipe_is_read(recipe: Path) -> None:
    """No unknown option, and data named."""
    config = load_run_config(["--config", str(recipe)])
    assert config.data.train
    assert config.data.val


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_a_strategy_goes_on_top_and_leaves_the_rest(strategy: Path) -> None:
    """It sets what it holds; all else stays the recipe's."""
    recipe = str(RECIPES / "vlbert_vqa.yaml")
    plain = dataclasses.asdict(load_run_config(["--config", recipe]))
    chosen = dataclasses.asdict(load_run_config(["--config", recipe, "--config", str(strategy)]))
    held = yaml.safe_load(strategy.read_text(encoding="utf-8"))
    assert chosen["adapt"]["strategy"] == held["adapt"]["strategy"]
    assert differing(plain, chosen) <= set(flat(held))


def test_every_strategy_has_a_file() -> None:
    """All names that take no number, and the original's choice of K and of frozen layers."""
    named = {canonical(yaml.safe_load(path.read_text(encoding="utf-8"))["adapt"]["strategy"]) for path in STRATEGIES}
    assert named == {*DECIDED, *CONSTANT, "last_4", "specific_k"}


@pytest.mark.parametrize(
    ("model", "own"), [("vlbert", {"data.train", "data.val", "adapt.strategy"}), ("lxmert", {"data.train", "data.val"})]
)
def test_the_two_data_sets_share_their_hyper_parameters(model: str, own: set[str]) -> None:
    """VQA-CP v2 differs in its splits, and for VL-BERT in the strategy of the original's file."""
    first, second = (
        dataclasses.asdict(load_run_config(["--config", str(RECIPES / f"{model}_{data}.yaml")]))
        for data in ("vqa", "vqacp")
    )
    assert differing(first, second) == own


@pytest.mark.parametrize("data", ["vqa", "vqacp"])
def test_vl_bert_reads_questions_whole(data: str) -> None:
    """The original cuts none."""
    config = load_run_config(["--config", str(RECIPES / f"vlbert_{data}.yaml")])
    assert config.task.max_question_length - (LEAST_PAIR - 1) >= LONGEST_QUESTION
