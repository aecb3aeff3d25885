"""How often every decision says "tuned": counted batch by batch, summed over ranks, told per component.

Shapes: B samples in a batch, D decisions, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from adaptive_ft.strategies import Tying

Total = Callable[[Tensor], Tensor]


class UsageMeter:
    """Counts, per decision, the samples whose gate was tuned.

    The counts are one float64 tensor [D + 1] (last: the number of samples) on the device of the gates; an
    update adds to it there, without waiting for the device.
    """

    def __init__(self, tying: Tying) -> None:
        self.tying = tying
        self._counts = torch.zeros(len(tying.decisions) + 1, dtype=torch.float64)

    def update(self, gates_BD: Tensor, valid_B: Tensor | None = None) -> None:
        """Count a batch of gates (exactly 0 or 1); rows where `valid_B` is False are passed over."""
        gates_BD = gates_BD.detach().double()
        count_B = gates_BD.new_ones(len(gates_BD)) if valid_B is None else valid_B.double()
        row = torch.cat([count_B @ gates_BD, count_B.sum(0, keepdim=True)])
        self._counts = self._counts.to(row.device) + row

    def reduce(self, total: Total) -> None:
        """Replace the counts by those of all ranks; `total` sums a float64 tensor over the ranks."""
        self._counts = total(self._counts)

    def settle(self, total: Total, keep: bool) -> None:
        """Move the counts of all ranks to the one rank that says `keep`: its checkpoint holds them all."""
        self.reduce(total)
        if not keep:
            self.clear()

    def clear(self) -> None:
        """Begin the counts anew."""
        self._counts = torch.zeros_like(self._counts)

    @property
    def num_samples(self) -> int:
        """Samples counted so far."""
        return round(self._counts[-1].item())

    def decision_shares(self) -> Tensor:
        """Share of the samples with the decision tuned: float64 [D] on the CPU; NaN before any sample."""
        counts = self._counts.cpu()
        return counts[:-1] / counts[-1]

    def majority(self) -> Tensor:
        """The decisions that more than half of the samples take: bool [D] on the CPU, one decision for all inputs."""
        return self.decision_shares() > 0.5

    def component_shares(self) -> Tensor:
        """The same per component, float64 [C]: its decision's share, or the strategy's constant 0 or 1."""
        return self.tying.expand(self.decision_shares().unsqueeze(0)).squeeze(0)

    def summary(self) -> dict[str, float]:
        """What `summary_of` tells of the shares counted so far."""
        return summary_of(self.tying, self.decision_shares())

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return {"counts": self._counts.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`; raises ValueError when it counts another number of decisions."""
        counts = state["counts"]
        if counts.shape != self._counts.shape:
            raise ValueError(
                f"the saved gate usage counts {len(counts) - 1} decisions but this strategy has "
                f"{len(self._counts) - 1}; resume with the strategy and model of the checkpoint"
            )
        self._counts = counts.double().clone()


def summary_of(tying: Tying, shares_D: Tensor) -> dict[str, float]:
    """Numbers over the live decisions, from the share of samples that tune each, float64 [D]; dead ones never count.

    mean_tuned_share: mean over components, so that strategies with and without decisions compare;
    decisions: how many are live; always_on, always_off: live decisions that never changed;
    mean_entropy_bits: mean over them of H(p) = -p log2 p - (1-p) log2(1-p), p the share; 0 without any;
    effective_decisions: sum of H(p), the fair coins that would carry as many bits (at most `decisions`).
    """
    live_D = torch.tensor(tying.live, dtype=torch.bool)
    own_D = shares_D[live_D]
    entropy_D = _binary_entropy(own_D)
    return {
        "mean_tuned_share": _mean_tuned_share(tying, shares_D),
        "decisions": len(own_D),
        "always_on": int((own_D == 1).sum()),
        "always_off": int((own_D == 0).sum()),
        "mean_entropy_bits": entropy_D.mean().item() if len(own_D) else 0.0,
        "effective_decisions": entropy_D.sum().item(),
    }


def decision_shares(tying: Tying, shares_C: Tensor) -> Tensor:
    """The decisions' shares [D] in the components' shares [C], such as a run's CSV files hold."""
    return shares_C[[tying.index.index(decision) for decision in range(len(tying.decisions))]]


def _mean_tuned_share(tying: Tying, shares_D: Tensor) -> float:
    dead = {decision for decision, live in enumerate(tying.live) if not live}
    counted_C = torch.tensor([decision not in dead for decision in tying.index], dtype=torch.bool)
    return tying.expand(shares_D.unsqueeze(0)).squeeze(0)[counted_C].mean().item()


def _binary_entropy(shares: Tensor) -> Tensor:
    """H(p) in bits, elementwise; 0 at p = 0 and p = 1."""
    both = torch.special.entr(shares) + torch.special.entr(1 - shares)
    return both / torch.log(torch.tensor(2.0, dtype=both.dtype))
