"""Decisions of single samples: counts without the dead ones, usage by kind, and how many ways of deciding there are."""

import pytest
import torch

from adaptive_ft.analysis.decisions import effective_rank, patterns, tuned_per_sample, usage_by_kind
from adaptive_ft.components import Component, ComponentMap

COMPONENTS = ComponentMap(
    (
        Component("layer.0", "attention", 0),
        Component("layer.0", "ffn.in"),
        Component("layer.1", "attention", 0),
        Component("layer.1", "ffn.in"),
    ),
    live=(True, True, True, False),
)
GATES = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def test_dead_components_are_not_counted_as_tuned() -> None:
    assert tuned_per_sample(GATES, COMPONENTS).tolist() == [2, 3, 0]


def test_usage_by_kind_is_told_layer_by_layer_the_most_frequent_kind_first() -> None:
    rare, frequent = usage_by_kind(["how many", "what", "what"], GATES, [0.5, 1.0, 0.0], COMPONENTS)[::-1]
    assert (frequent.kind, frequent.samples, frequent.score) == ("what", 2, 0.5)
    assert frequent.tuned_share == pytest.approx(3 / 6)
    assert frequent.by_layer_L == (0.5, 0.5)
    assert (rare.kind, rare.samples, rare.score, rare.by_layer_L) == ("how many", 1, 0.5, (0.5, 1.0))


def test_a_kind_with_an_unjudged_sample_has_no_score() -> None:
    (usage,) = usage_by_kind(["what"] * 3, GATES, [1.0, None, 0.0], COMPONENTS)
    assert usage.score is None


def test_kinds_scores_and_gates_must_fit() -> None:
    with pytest.raises(ValueError, match="2 kinds and 3 scores do not fit 3 rows"):
        usage_by_kind(["what"] * 2, GATES, [1.0] * 3, COMPONENTS)


def test_the_effective_rank_counts_independent_directions() -> None:
    """All 2^3 rows of three independent coins: 3. One switch that moves three decisions: 1. Constants: 0."""
    coins = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    assert effective_rank(coins) == pytest.approx(3)
    assert effective_rank(coins[:, :1].expand(-1, 3)) == pytest.approx(1)
    assert effective_rank(torch.ones(8, 3)) == 0
    assert effective_rank(torch.zeros(8, 0)) == 0


def test_the_effective_rank_is_that_of_roy_and_vetterli() -> None:
    """exp of the entropy of the normalised singular values; two of 3 and 1 give 0.75 and 0.25."""
    left, right = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]]) / 2, torch.eye(2)
    gates = left.T @ torch.diag(torch.tensor([3.0, 1.0])) @ right
    assert effective_rank(gates) == pytest.approx(0.75**-0.75 * 0.25**-0.25)


def test_patterns_are_different_rows() -> None:
    assert patterns(torch.cat([GATES, GATES[:1]])) == 3
    assert patterns(torch.zeros(5, 0)) == 1
