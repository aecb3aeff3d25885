"""Rank correlation: Spearman's coefficient with ties, and intervals that say how little a few layers tell."""

import itertools

import numpy as np
import pytest

from adaptive_ft.analysis.rank_correlation import mean_ranks, rank_correlation


def test_ranks_of_equal_numbers_are_their_mean() -> None:
    assert mean_ranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[2.5, 0.0, 2.5, 1.0]]


def test_rho_is_that_of_the_differences_of_ranks() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)) without ties, and the exact p over all 120 orders."""
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0.2, 0.1, 0.9, 0.5, 7.0])
    found = rank_correlation(x, y)
    assert found is not None
    assert found.rho == pytest.approx(1 - 6 * 4 / (5 * 24))
    d = [sum((a - b) ** 2 for a, b in zip(range(5), order, strict=True)) for order in itertools.permutations(range(5))]
    exact = np.mean([abs(1 - 6 * square / 120) >= 0.8 - 1e-9 for square in d])
    assert found.p == pytest.approx(exact, abs=0.02)
    assert (found.low, found.high, found.layers) == (None, None, 5)


def test_many_layers_make_it_surer() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=60)
    y = x + generator.normal(size=60)
    few, many = rank_correlation(x[:12], y[:12]), rank_correlation(x, y)
    assert few is not None
    assert many is not None
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert few.low < few.rho < few.high
    assert many.high - many.low < few.high - few.low
    assert many.p < 1e-3
    assert rank_correlation(x, y) == many  # the draws have a seed


def test_what_cannot_be_known_is_none() -> None:
    assert rank_correlation(np.arange(3.0), np.arange(3.0)) is None
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None
    with pytest.raises(ValueError, match="5 layers on one side and 4"):
        rank_correlation(np.arange(5.0), np.arange(4.0))
