"""Every recipe is read by the parser of train.py, alone and with a strategy of the original's tables on top."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptive_ft.config import load_run_config
from adaptive_ft.strategies import CONSTANT, DECIDED, canonical
from adaptive_ft.tasks.vqa_inputs import LEAST_PAIR

# In word pieces: the longest of VQA v2 have 23 words and marks, and rare words are of several pieces.
LONGEST_QUESTION = 28

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
RUNS = sorted(RECIPES.glob("*.yaml"))
STRATEGIES = sorted((RECIPES / "strategies").glob("*.yaml"))


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


@pytest.mark.parametrize("recipe", RUNS, ids=name)
def test_a_recipe_is_read(recipe: Path) -> None:
    """No unknown option, and data named."""
    config = load_run_config(["--config", str(recipe)])
    assert config.data.train
    assert config.data.val


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_a_strategy_goes_on_top_and_leaves_the_rest(strategy: Path) -> None:
    """It sets what it holds; data, model, task and optimizer stay the recipe's."""
    recipe = str(RECIPES / "vlbert_vqa.yaml")
    plain = dataclasses.asdict(load_run_config(["--config", recipe]))
    chosen = dataclasses.asdict(load_run_config(["--config", recipe, "--config", str(strategy)]))
    held = yaml.safe_load(strategy.read_text(encoding="utf-8"))
    assert chosen["adapt"]["strategy"] == held["adapt"]["strategy"]
    assert {option.split(".")[0] for option in differing(plain, chosen)} <= {"adapt", "losses"}


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
