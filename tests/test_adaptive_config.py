"""Options of an adapted model, and their way through JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import ViTConfig, ViTModel

from adaptive_ft import get_adaptive_model
from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig

VIT: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
}


def test_json_and_back() -> None:
    config = AdaptiveConfig("specific_k", (2, 3), PolicyConfig("mirror", cross_layers=2), 2.5, "sample")
    assert AdaptiveConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert AdaptiveConfig.from_dict({"strategy": "standard"}) == AdaptiveConfig("standard")


def test_a_folder_and_back(tmp_path: Path) -> None:
    config = AdaptiveConfig("specific_k", (2, 3), PolicyConfig(hidden_size=9), eval_decisions="global")
    config.save_pretrained(tmp_path / "new")
    assert AdaptiveConfig.from_pretrained(tmp_path / "new") == config
    with pytest.raises(UserError, match=r"adaptive_config\.json is missing"):
        AdaptiveConfig.from_pretrained(tmp_path)


def test_every_option_goes_through_a_folder(tmp_path: Path) -> None:
    """Also those that will be added: each has another value than its default here, or this fails."""
    policy = PolicyConfig("mirror", 0.25, 5, 6, 3, 2, 2, 4, 7, False)
    config = AdaptiveConfig("specific_k", (1,), policy, 2.5, "global", 0.5, 0.25, 4, "two_branch")
    for options, defaults in ((config, AdaptiveConfig()), (policy, PolicyConfig())):
        same = [name for name, value in vars(options).items() if value == getattr(defaults, name)]
        assert same == []
    config.save_pretrained(tmp_path)
    assert AdaptiveConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize(("content", "told"), [({}, "has no 'adaptive'"), ({"adaptive": []}, "'adaptive' is .*object")])
def test_a_file_without_options_is_refused(content: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "adaptive_config.json").write_text(json.dumps({"format": 2, **content}))
    with pytest.raises(UserError, match=rf"adaptive_config\.json'.* {told}"):
        AdaptiveConfig.from_pretrained(tmp_path)


def test_a_saved_model_has_its_options_and_keeps_its_file(tmp_path: Path) -> None:
    config = AdaptiveConfig("spottune_block", policy=PolicyConfig(hidden_size=9))
    get_adaptive_model(ViTModel(ViTConfig(**VIT)), config).save_pretrained(tmp_path)
    assert AdaptiveConfig.from_pretrained(tmp_path) == config
    with pytest.raises(UserError, match="holds a saved adaptive model"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stratgy": "spottune"}, "no option 'stratgy'. Did you mean 'strategy'"),
        ({"policy": {"knd": "light"}}, "no option 'policy.knd'. Did you mean 'kind'"),
        ({"policy": "light"}, "'policy' is a section"),
        ({"policy": {"kind": "miror"}}, "unknown policy kind 'miror'. Did you mean 'mirror'"),
        ({"policy": {"kind": 5}}, "unknown policy kind '5'"),
        ({"strategy": "spottun"}, "unknown strategy 'spottun'. Did you mean 'spottune'"),
        ({"temperature": "warm"}, "a value of the wrong kind"),
        ({"frozen_layers": 3}, "a value of the wrong kind"),
        ({"frozen_layers": ["1"]}, r"frozen_layers are \['1'\]; each is the number of a layer"),
        ({"frozen_layers": [True]}, "each is the number of a layer"),
        ({"strategy": 5}, "strategy is 5; it is a name"),
        ({"delta_rank": 2.5}, "delta_rank is 2.5; it is at least 1"),
        ({"policy": {"hidden_size": 2.5}}, "policy.hidden_size is 2.5; it must be a whole number"),
    ],
)
def test_unknown_saved_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdaptiveConfig.from_dict({**AdaptiveConfig().to_dict(), **change})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"final_temperature": 0.0},
        {"final_temperature": float("inf")},
        {"final_temperature": float("nan")},
        {"eval_decisions": "guess"},
        {"gate_gradient": "guess"},
        {"delta_rank": 0},
        {"gate_grad_fraction": 0.0},
        {"gate_grad_fraction": 1.5},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        AdaptiveConfig(**options)


def test_a_misspelt_strategy_is_refused_where_it_is_written() -> None:
    with pytest.raises(UserError, match=r"unknown strategy 'spottun'\. Did you mean 'spottune'"):
        AdaptiveConfig(strategy="spottun")
    for spelling in ("Frozen_Bert", "last_4", "SpotTune_Block"):
        assert AdaptiveConfig(spelling).strategy == spelling


def test_a_model_adapted_without_options_has_the_defaults() -> None:
    assert get_adaptive_model(ViTModel(ViTConfig(**VIT))).config == AdaptiveConfig()


def test_options_that_are_no_adaptive_config_are_refused() -> None:
    base: Any = ViTModel(ViTConfig(**VIT))
    with pytest.raises(UserError, match=r"config is a dict; it is an AdaptiveConfig \(AdaptiveConfig\.from_dict reads"):
        get_adaptive_model(base, {"strategy": "spottune"})  # type: ignore[arg-type]
    assert all(weight.requires_grad for weight in base.parameters())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("mirror", r"policy is 'mirror'; it is a PolicyConfig, as PolicyConfig\(kind='mirror'\)"),
        ("miror", r"as PolicyConfig\(kind='light'\)\. Did you mean 'mirror'"),
        ({"kind": "mirror"}, r"it is a PolicyConfig, as PolicyConfig\(kind='light'\)"),
    ],
)
def test_a_policy_that_is_none_is_refused_with_the_form_it_has(given: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        AdaptiveConfig(policy=given)
