"""What the decisions of single samples tell: how many components each tunes, which kinds of questions tune which
layers, and how many ways of deciding there are.

Shapes: N samples, C components, D decisions, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_ft.components import ComponentMap


@dataclass(frozen=True)
class KindUsage:
    """Usage over the samples of one kind, dead components left out; `by_layer_L` follows `ComponentMap.layers`."""

    kind: str
    samples: int
    tuned_share: float
    by_layer_L: tuple[float, ...]
    score: float | None


def tuned_per_sample(gates_NC: Tensor, components: ComponentMap) -> Tensor:
    """How many live components each sample tunes, int64 [N]."""
    return gates_NC[:, _live(components)].round().long().sum(dim=1)


def usage_by_kind(
    kinds: Sequence[str], gates_NC: Tensor, scores: Sequence[float | None], components: ComponentMap
) -> list[KindUsage]:
    """Tuned share, also layer by layer, and mean score over the samples of each kind, the most frequent kind first.

    `kinds` names each sample's question type, answer type, or class. The score is None where a sample has none.
    Raises ValueError unless there is one kind, one row of gates and one score per sample.
    """
    if not len(kinds) == len(gates_NC) == len(scores):
        raise ValueError(f"{len(kinds)} kinds and {len(scores)} scores do not fit {len(gates_NC)} rows of gates")
    found = []
    for kind in dict.fromkeys(kinds):
        rows = [number for number, own in enumerate(kinds) if own == kind]
        own_NC, judged = (
            gates_NC[rows].double(),
            [score for score in map(scores.__getitem__, rows) if score is not None],
        )
        found.append(
            KindUsage(
                kind=kind,
                samples=len(rows),
                tuned_share=own_NC[:, _live(components)].mean().item(),
                by_layer_L=tuple(_layer_shares(own_NC, components)),
                score=sum(judged) / len(rows) if len(judged) == len(rows) else None,
            )
        )
    return sorted(found, key=lambda usage: (-usage.samples, usage.kind))


def effective_rank(gates_ND: Tensor) -> float:
    """In how many independent directions the decisions move from sample to sample, at least 1; 0 if none moves.

    exp(H(p)), p_i = s_i / sum(s) with the singular values s of the gates after their means are taken away: D for D
    independent fair coins, 1 where all follow one switch, however many they are. The sum of the decisions' entropies
    (UsageMeter.summary) cannot tell these two apart. Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    if min(gates_ND.shape) == 0:
        return 0.0
    centred_ND = gates_ND.double() - gates_ND.double().mean(dim=0)
    spread = torch.linalg.svdvals(centred_ND)
    spread = spread[spread > 1e-9 * max(gates_ND.shape)]
    return torch.special.entr(spread / spread.sum()).sum().exp().item() if len(spread) else 0.0


def patterns(gates_ND: Tensor) -> int:
    """How many different rows of decisions there are."""
    return len({tuple(row) for row in gates_ND.round().tolist()})


def _live(components: ComponentMap) -> Tensor:
    return torch.tensor(components.live, dtype=torch.bool)


def _layer_shares(gates_NC: Tensor, components: ComponentMap) -> list[float]:
    """Share tuned in each layer; the dead components count only in a layer that has no others."""
    shares = []
    for layer in components.layers:
        own = [column for column, component in enumerate(components) if component.layer == layer]
        counted = [column for column in own if components.live[column]] or own
        shares.append(gates_NC[:, counted].mean().item())
    return shares
