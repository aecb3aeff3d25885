"""Do two numbers per layer rise together? Spearman's rank correlation, and how sure a few layers make it.

Shapes: L layers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 4  # of three layers every order has a p above 0.3
FEWEST_FOR_INTERVAL = 10
_DRAWS = 10_000


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho; p, the share of random orders with a rho at least as far from 0; and the 95 % interval of drawing
    layers again with replacement, None for fewer than ten layers: those of a perfect order, drawn again, are in order
    too. Layers of one model are no independent draws: both say less than they seem to.
    """

    rho: float
    low: float | None
    high: float | None
    p: float
    layers: int


def rank_correlation(x_L: Floats, y_L: Floats, seed: int = 1) -> RankCorrelation | None:
    """Spearman's rho of two numbers per layer; equal numbers share their mean rank.

    None for fewer than four layers, or where all layers have the same number. Raises ValueError for different lengths.
    """
    if x_L.shape != y_L.shape:
        raise ValueError(f"{len(x_L)} layers on one side and {len(y_L)} on the other")
    rho = _spearman(x_L[None], y_L[None])[0]
    if len(x_L) < FEWEST or np.isnan(rho):
        return None
    generator = np.random.default_rng(seed)
    orders = generator.permuted(np.tile(y_L, (_DRAWS, 1)), axis=1)
    by_chance = _spearman(np.broadcast_to(x_L, orders.shape), orders)
    as_far = np.abs(by_chance) >= abs(rho) - 1e-12
    # The order that was found is one of those that chance may give.
    p = float((as_far.sum() + 1) / (_DRAWS + 1))
    if len(x_L) < FEWEST_FOR_INTERVAL:
        return RankCorrelation(float(rho), None, None, p, len(x_L))
    drawn = generator.integers(0, len(x_L), (_DRAWS, len(x_L)))
    low, high = np.nanpercentile(_spearman(x_L[drawn], y_L[drawn]), [2.5, 97.5])
    return RankCorrelation(float(rho), float(low), float(high), p, len(x_L))


def mean_ranks(values_NL: Floats) -> Floats:
    """The rank of every value in its row, from 0; equal ones share the mean of theirs."""
    below = (values_NL[:, None, :] < values_NL[:, :, None]).sum(-1)
    equal = (values_NL[:, None, :] == values_NL[:, :, None]).sum(-1)
    ranks: Floats = below + (equal - 1) / 2
    return ranks


def _spearman(x_NL: Floats, y_NL: Floats) -> Floats:
    """Pearson's correlation of the ranks of every row: [N]; NaN where one side is constant."""
    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in map(mean_ranks, (x_NL, y_NL)))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    with np.errstate(invalid="ignore"):
        rho: Floats = (x * y).sum(1) / np.where(spread > 0, spread, np.nan)
    return rho
