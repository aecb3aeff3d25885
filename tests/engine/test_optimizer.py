"""Parameter groups keep their own rates, and the schedule wastes neither its first nor its last update."""

import pytest
import torch
from torch import nn

from adaptive_ft.engine.optimizer import OptimConfig, build_optimizer, schedule_factor, set_learning_rates


def groups() -> dict[str, list[tuple[str, nn.Parameter]]]:
    """A matrix and a vector in each of three groups; no policy."""
    return {
        group: [("weight", nn.Parameter(torch.ones(2, 2))), ("bias", nn.Parameter(torch.ones(2)))]
        for group in ("delta", "other", "head")
    }


def test_groups_have_their_rates_and_names() -> None:
    """delta and other share the learning rate, the head has its own, an absent group makes no torch group."""
    config = OptimConfig(learning_rate=1e-4, head_learning_rate=1e-3, policy_learning_rate=1.0, weight_decay=0.1)
    optimizer = build_optimizer(groups(), config, fused=False)
    found = {group["name"]: (group["base_lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found == {"delta": (1e-4, 0.1), "other": (1e-4, 0.1), "head": (1e-3, 0.1)}


def test_rates_left_out_are_the_learning_rate() -> None:
    """None means learning_rate; a rate of 0 is a rate."""
    optimizer = build_optimizer(groups(), OptimConfig(learning_rate=1e-4, head_learning_rate=0.0), fused=False)
    assert [group["base_lr"] for group in optimizer.param_groups] == [1e-4, 1e-4, 0.0]


def test_only_matrices_decay_when_asked() -> None:
    """Vectors move to a group of their own without decay, at the same rate; nothing is lost."""
    optimizer = build_optimizer(groups(), OptimConfig(decay="matrices", weight_decay=0.1), fused=False)
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {
        name + suffix: decay for name in ("delta", "other", "head") for suffix, decay in (("", 0.1), (".no_decay", 0.0))
    }
    for group in optimizer.param_groups:
        assert {parameter.ndim for parameter in group["params"]} == ({1} if "no_decay" in group["name"] else {2})


def test_deltas_may_decay_by_themselves() -> None:
    """0 is a decay; vectors among the deltas stay without one where only matrices decay."""
    optimizer = build_optimizer(groups(), OptimConfig(weight_decay=0.1, delta_weight_decay=0.0), fused=False)
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "delta": 0.0, "other": 0.1, "head": 0.1
    }  # fmt: skip
    config = OptimConfig(weight_decay=0.1, delta_weight_decay=2.0, decay="matrices")
    decays = {
        group["name"]: group["weight_decay"] for group in build_optimizer(groups(), config, fused=False).param_groups
    }
    assert (decays["delta"], decays["delta.no_decay"], decays["head"]) == (2.0, 0.0, 0.1)


def test_decay_pulls_and_adam_settings_arrive() -> None:
    """betas and eps of the config are those of the optimizer."""
    optimizer = build_optimizer(groups(), OptimConfig(betas=(0.5, 0.6), eps=1e-3), fused=False)
    assert optimizer.defaults["betas"] == (0.5, 0.6)
    assert optimizer.defaults["eps"] == 1e-3


def test_the_schedule_rises_then_falls_in_lines() -> None:
    """Ten updates, two of them warm-up: 1/2, 1, then 8/8 down to 1/8."""
    factors = [schedule_factor(update, 10, 2) for update in range(10)]
    assert factors == pytest.approx([0.5, 1.0, *(left / 8 for left in range(8, 0, -1))])


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (3, 0), (10, 10), (1000, 60)])
def test_no_update_is_wasted(total: int, warmup: int) -> None:
    """Every update has a rate above zero and at most the base rate; after the last there is none."""
    factors = [schedule_factor(update, total, warmup) for update in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
    assert schedule_factor(total, total, warmup) == 0


def test_warm_up_is_a_share_or_a_number_of_updates() -> None:
    """The number wins where it is given, also 0; neither lasts longer than the run."""
    assert OptimConfig(warmup_ratio=0.06).warmup_updates(1000) == 60
    assert OptimConfig(warmup_ratio=0.06, warmup_steps=500).warmup_updates(1000) == 500
    assert OptimConfig(warmup_ratio=0.06, warmup_steps=0).warmup_updates(1000) == 0
    assert OptimConfig(warmup_steps=500).warmup_updates(20) == 20


def test_rates_are_a_function_of_the_update_alone() -> None:
    """Setting a factor twice does not multiply, and groups keep their distance."""
    optimizer = build_optimizer(groups(), OptimConfig(learning_rate=1e-4, head_learning_rate=1e-3), fused=False)
    set_learning_rates(optimizer, 0.25)
    rates = set_learning_rates(optimizer, 0.5)
    assert rates == {"delta": 5e-5, "other": 5e-5, "head": 5e-4}
    assert [group["lr"] for group in optimizer.param_groups] == list(rates.values())
