"""What a run refuses: every bound of an option on both sides, and shard sets that one model cannot serve."""

from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.checks import LEAST, SHARES, check_options, check_question_length, check_same_data
from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError


def changed(option: str, value: float) -> RunConfig:
    """The default config with one option changed."""
    config = RunConfig()
    section, _, name = option.rpartition(".")
    setattr(attrgetter(section)(config) if section else config, name, value)
    return config


def test_the_defaults_are_fine() -> None:
    check_options(RunConfig())


@pytest.mark.parametrize("option", LEAST)
def test_the_least_value_is_allowed_and_nothing_below(option: str) -> None:
    check_options(changed(option, LEAST[option]))
    for wrong in (LEAST[option] - 1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"^--{option} is {wrong}; it must be at least {LEAST[option]}"):
            check_options(changed(option, wrong))


def test_a_rank_timeout_that_would_never_act_is_refused() -> None:
    """Before it the collective ends in which the other ranks wait."""
    check_options(changed("rank_timeout", 7139))
    with pytest.raises(UserError, match=r"^--rank_timeout is 7200; it must be below 7140 s"):
        check_options(changed("rank_timeout", 7200))


@pytest.mark.parametrize("option", SHARES)
def test_shares_lie_from_0_to_1(option: str) -> None:
    for right in (0, 1):
        check_options(changed(option, right))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=f"^--{option} is {wrong}; it is a share"):
            check_options(changed(option, wrong))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_no_generator_takes_is_refused(seed: int) -> None:
    check_options(changed("seed", 2**32 - 1))
    with pytest.raises(UserError, match=f"--seed is {seed}"):
        check_options(changed("seed", seed))


def test_questions_fit_the_positions() -> None:
    check_question_length(20, 20)
    with pytest.raises(UserError, match="is 21, but the base model has positions for 20 tokens"):
        check_question_length(21, 20)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"answer_table_sha256": "0" * 64}, r"answer table \(SHA-256\): [0-9a-f]{12} and 000000000000\."),
        ({"feature_dim": 5}, r"feature size: \d+ and 5\."),
        ({"feature_extractor": "theirs"}, r"feature extractor: .* and theirs\."),
    ],
)
def test_shards_one_model_cannot_serve(change: dict[str, Any], what: str, workplace: Path) -> None:
    """The sentence names both folders and both values."""
    train, val = (ShardSet.open(workplace / "world/target" / part) for part in ("train", "val"))
    check_same_data(train, val)
    with pytest.raises(UserError, match=rf"'.*target/train' and '.*target/val' differ in their {what}"):
        check_same_data(train, replace(val, manifest=replace(val.manifest, **change)))
