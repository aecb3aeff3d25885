"""Options of an adapted model, and their way through JSON."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig


def test_json_and_back() -> None:
    config = AdaptiveConfig("specific_k", (2, 3), PolicyConfig("mirror", cross_layers=2), 2.5, "sample")
    assert AdaptiveConfig.from_saved(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("change", [{"stratgy": "spottune"}, {"policy": {"knd": "light"}}])
def test_unknown_saved_options_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="does not fit this version"):
        AdaptiveConfig.from_saved({**asdict(AdaptiveConfig()), **change})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"final_temperature": 0.0},
        {"final_temperature": float("nan")},
        {"eval_decisions": "guess"},
        {"delta_rank": 0},
        {"gate_grad_fraction": 0.0},
        {"gate_grad_fraction": 1.5},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        AdaptiveConfig(**options)
