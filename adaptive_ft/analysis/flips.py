"""Does the gate gradient foretell what a decision is worth? Predicted and true changes of the loss, pair by pair.

The true change of one pair is L(g with decision d of sample n flipped) - L(g); the predicted one, to first order,
(1 - 2 g[n, d]) dL/dg[n, d].
Shapes: N samples, D live decisions, K of them of one kind, P pairs of a sample and a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.strategies import Tying

Floats = NDArray[np.float64]

ALL = "all"
PREDICTED, TWO_BRANCH, TRUE = "predicted", "two_branch", "true"
# The last words of a component's part, as people say it.
_PARTS = {"attention.output": "attention output", "ffn.in": "FFN in", "ffn.out": "FFN out"}
_SUBLAYERS = {"attention": "attention", "ffn": "FFN"}


@dataclass(frozen=True)
class Agreement:
    """How well one number tells another over `pairs` pairs: Pearson's and Spearman's correlation of all (None where
    one side is constant), the mean and the sample standard deviation over samples of Spearman's within a sample (None
    where all or all but one are constant), and the share with the same sign of the pairs where neither is 0.

    Samples of large losses have large changes on both sides, so that all pairs together correlate more than those
    of any sample. Which decisions are worth changing for a sample is what those within it tell.
    """

    pairs: int
    pearson: float | None
    spearman: float | None
    within: float | None
    within_deviation: float | None
    same_sign: float | None


@dataclass(frozen=True)
class Flips:
    """What flipping each live decision of each sample alone does to that sample's loss.

    `names` and `kinds` [D] are those of the decisions, `question_ids` and `losses_N` those of the samples.
    `two_branch_ND` is the gradient of a model that computes both branches, where it was asked for.
    """

    question_ids: Sequence[int]
    names: Sequence[str]
    kinds: Sequence[str]
    losses_N: Floats
    gates_ND: Floats
    gradient_ND: Floats
    change_ND: Floats
    two_branch_ND: Floats | None = None

    @property
    def changes(self) -> dict[str, Floats]:
        """The change [N, D] that each way tells: PREDICTED and TWO_BRANCH (1 - 2 g) dL/dg, TRUE from forward passes."""
        direction_ND = 1 - 2 * self.gates_ND
        two_branch = {} if self.two_branch_ND is None else {TWO_BRANCH: direction_ND * self.two_branch_ND}
        return {PREDICTED: direction_ND * self.gradient_ND, **two_branch, TRUE: self.change_ND}

    def by_kind(self) -> dict[str, dict[str, Floats]]:
        """The changes [N, K] of all pairs, and of those of each kind where there are several."""
        kinds = list(dict.fromkeys(self.kinds))
        chosen = {ALL: np.full(len(self.kinds), True)}
        if len(kinds) > 1:
            chosen |= {kind: np.array([own == kind for own in self.kinds]) for kind in kinds}
        changes = self.changes
        return {
            kind: {way: change_ND[:, of_kind] for way, change_ND in changes.items()} for kind, of_kind in chosen.items()
        }

    def agreements(self) -> dict[tuple[str, str], dict[str, Agreement]]:
        """The agreement of every two ways, by kind."""
        pairs = list(combinations(self.changes, 2))
        by_kind = self.by_kind()
        return {
            (first, second): {kind: agreement(found[first], found[second]) for kind, found in by_kind.items()}
            for first, second in pairs
        }

    def lines(self) -> Iterator[dict[str, Any]]:
        """A line per pair for a CSV."""
        changes = self.changes
        for sample, question in enumerate(self.question_ids):
            for decision, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
                yield {
                    "question_id": question, "decision": name, "kind": kind,
                    "gate": int(self.gates_ND[sample, decision]), "loss": float(self.losses_N[sample]),
                    **{f"{way}_change": float(change_ND[sample, decision]) for way, change_ND in changes.items()},
                }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """What summarises them, as plain values."""
        return {
            "samples": len(self.question_ids),
            "decisions": len(self.names),
            "tuned_share": float(self.gates_ND.mean()),
            "mean_loss": float(self.losses_N.mean()),
            "agreement": {
                f"{first}_{second}": {kind: asdict(found) for kind, found in by_kind.items()}
                for (first, second), by_kind in self.agreements().items()
            },
        }


def agreement(first_NK: Floats, second_NK: Floats) -> Agreement:
    """How well one change tells the other."""
    first_P, second_P = first_NK.ravel(), second_NK.ravel()
    own = [rho for pair in zip(first_NK, second_NK, strict=True) if (rho := _spearman(*pair)) is not None]
    moved_P = (first_P != 0) & (second_P != 0)
    return Agreement(
        pairs=len(first_P),
        pearson=_pearson(first_P, second_P),
        spearman=_spearman(first_P, second_P),
        within=float(np.mean(own)) if own else None,
        within_deviation=float(np.std(own, ddof=1)) if len(own) > 1 else None,
        same_sign=float((np.sign(first_P) == np.sign(second_P))[moved_P].mean()) if moved_P.any() else None,
    )


def _pearson(x_P: Floats, y_P: Floats) -> float | None:
    x, y = x_P - x_P.mean(), y_P - y_P.mean()
    spread = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / spread) if spread else None


def _spearman(x_P: Floats, y_P: Floats) -> float | None:
    return _pearson(_ranks(x_P), _ranks(y_P))


def _ranks(values_P: Floats) -> Floats:
    """The rank of every value, from 0; equal ones share the mean of theirs. (`mean_ranks` compares all with all.)"""
    _, place, counts = np.unique(values_P, return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts + 1) / 2)[place]
    return ranks


def kinds_of(tying: Tying, components: ComponentMap) -> list[str]:
    """What each live decision rules: head, attention output, FFN in, FFN out, where it is one of these; attention or
    FFN, the two halves of a layer; or a layer.
    """
    ruled: list[list[Component]] = [[] for _ in tying.decisions]
    for component, live, decision in zip(components, components.live, tying.index, strict=True):
        if live and decision >= 0:
            ruled[decision].append(component)
    return [_kind(own) for own in ruled if own]


def _kind(ruled: Sequence[Component]) -> str:
    kinds = {_component_kind(component) for component in ruled}
    halves = {_SUBLAYERS[component.sublayer] for component in ruled}
    return next(iter(kinds if len(kinds) == 1 else halves)) if len(halves) == 1 else "layer"


def _component_kind(component: Component) -> str:
    if component.head is not None:
        return "head"
    return next(kind for part, kind in _PARTS.items() if component.part.endswith(part))
