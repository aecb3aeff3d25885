"""From the policy's logits to 0/1 gates, and the holder in which gated modules find the gates of this step.

Shape suffixes: B samples, D decisions, C components, 2 the choices (0 frozen, 1 tuned).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from adaptive_ft_kernels import Draws, FaultyGates, GatePlan, plan_gates

Columns = tuple[int, int]  # start and stop, as of a slice


class GatesDiverged(ValueError):
    """The policy's logits are no numbers any more."""


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one column, int64: `used_U` have gate 1, `skipped_S` are those with gate 0 whose gate gradient is
    evaluated; what these receive is multiplied by `weight` (`plan_gates`). `seed`: of the random numbers (dropout) of
    the evaluation, other ones in every step and column.
    """

    used_U: Tensor
    skipped_S: Tensor
    weight: float
    seed: int


class GateHolder:
    """The gates of one step, shared by all gated modules of one model.

    Set before the base model runs and kept until its backward is over, so that recomputed activations see the
    same gates. A copy (also a deep copy or a pickle of the model) is one new holder, shared again by the
    copied modules, and empty: gates belong to a batch, not to a model.

    gate_grad_fraction: the share of samples whose gate gradient each component evaluates (`plan_gates`). The draws
    are the holder's own, so that dropout draws the same numbers whatever the share; `seed` starts them anew.
    """

    def __init__(self, gate_grad_fraction: float = 1.0, claims: Iterable[Columns] = ()) -> None:
        self.gate_grad_fraction = gate_grad_fraction
        self._claims = set(claims)
        self._plan: GatePlan | None = None
        self._groups: dict[Columns, tuple[Tensor, GatePlan]] = {}
        self._splits: list[Split] = []
        self._constants: dict[tuple[int, float], tuple[Tensor, GatePlan]] = {}
        self._draws = Draws()
        self.seed(torch.initial_seed())
        self._num_faulty: Tensor | None = None
        self._tells_later = False

    def __reduce__(self) -> tuple[type["GateHolder"], tuple[float, tuple[Columns, ...]]]:
        return GateHolder, (self.gate_grad_fraction, tuple(sorted(self._claims)))

    def claim(self, start: int, stop: int, module: str) -> None:
        """Announces that `module` will read the columns start:stop, before the first `set`.

        Raises ValueError, naming `module`, for columns that overlap those of another without being the same.
        """
        for other in self._claims - {(start, stop)}:
            if start < other[1] and other[0] < stop:
                raise ValueError(
                    f"{module} claims gate columns {start}:{stop}, which overlap the columns {other[0]}:{other[1]} of "
                    "another module: two modules share all their columns or none"
                )
        self._claims.add((start, stop))

    def seed(self, seed: int) -> None:
        """Start the draws of samples anew."""
        self._draws.seed(seed)
        self._seed, self._num_set = seed, 0

    def set(self, gates_BC: Tensor) -> None:
        """Takes the gates [B, C] of all components and partitions them for all layers at once.

        Raises ValueError for gates that are not exactly 0 or 1: `GatesDiverged` for those that are no numbers. On a
        GPU, where that would wait for the device, and inside `told_later`, `check` raises it.
        """
        fraction = self.gate_grad_fraction if gates_BC.requires_grad else 1.0
        self._plan = self._planned(gates_BC, fraction)
        self._splits, self._constants = [], {}
        self._num_set += 1
        new = self._plan.num_faulty
        self._num_faulty = new if self._num_faulty is None else self._num_faulty + new
        # One backward node collects the gradients of all groups; slices would fill a [B, C] table per module.
        num_columns = gates_BC.shape[1]
        bounds = sorted({0, num_columns, *(bound for claim in self._claims for bound in claim if bound < num_columns)})
        groups = list(pairwise(bounds))
        parts = gates_BC.split([stop - start for start, stop in groups], dim=1)
        self._groups = {
            (start, stop): (gates, self._plan.columns(start, stop))
            for (start, stop), gates in zip(groups, parts, strict=True)
        }

    def _planned(self, gates_BC: Tensor, fraction: float) -> GatePlan:
        try:
            return plan_gates(gates_BC, gate_grad_fraction=fraction, draws=self._draws)
        except FaultyGates as refusal:
            unknown_BC = gates_BC.isnan()
            if not unknown_BC.any():
                raise
            if not self._tells_later:
                raise GatesDiverged(str(refusal)) from refusal
            # What was computed with them is never kept, so that the plan may be any.
            any_plan = plan_gates(gates_BC.masked_fill(unknown_BC, 1), gate_grad_fraction=fraction, draws=self._draws)
            return replace(any_plan, num_faulty=unknown_BC.sum(dtype=torch.int32))

    @contextmanager
    def told_later(self) -> Iterator[None]:
        """Inside, gates that are no numbers are told by `check` alone, on a CPU as on a GPU.

        For ranks that train together: one that raised in the midst of a step would leave the others waiting for it.
        """
        before, self._tells_later = self._tells_later, True
        try:
            yield
        finally:
            self._tells_later = before

    def check(self) -> None:
        """Raises GatesDiverged if, since the last check, some gate was neither 0 nor 1; waits for the device."""
        num_faulty, self._num_faulty = self._num_faulty, None
        if num_faulty is not None and num_faulty:
            raise GatesDiverged(
                f"{int(num_faulty)} gates are neither 0 (frozen) nor 1 (tuned): the policy's logits have diverged, or "
                "soft gates were given."
            )

    def read(self, start: int, stop: int, batch: int, module: str) -> tuple[Tensor, GatePlan]:
        """The gates [B, stop - start] of one module's components and their plan.

        Raises ValueError, naming `module`, when no gates are set, when they are for another batch size than
        `batch`, when they lack these columns, and when they have a gradient that the module could not give them.
        """
        if self._plan is None:
            raise ValueError(
                f"{module} ran without gates: call the adaptive model, which sets them for every batch, "
                "not the base model inside it"
            )
        if batch != self._plan.batch:
            raise ValueError(
                f"{module} got a batch of {batch} but the gates are for {self._plan.batch} samples: "
                "the first axis of every gated input must be the batch"
            )
        if (start, stop) not in self._groups:
            raise ValueError(
                f"{module} reads gate columns {start}:{stop} but {self._plan.num_components} are set: they must be as "
                "many as the model has components, and the module must have claimed its own"
            )
        gates, plan = self._groups[start, stop]
        if gates.requires_grad and not torch.is_grad_enabled():
            raise ValueError(
                f"{module} runs without gradients though its gates need one, which re-entrant activation checkpointing "
                "cannot give them: enable it with use_reentrant=False."
            )
        return gates, plan

    @contextmanager
    def constant(self, start: int, stop: int, gate: float) -> Iterator[None]:
        """Inside, the modules of the columns start:stop find this one gate for all samples, without a gradient."""
        gates_BC, plan = before = self._groups[start, stop]
        same = gates_BC.shape[1], gate
        if same not in self._constants:  # modules of equal width share them for the step
            self._constants[same] = torch.full_like(gates_BC, gate), plan.constant(gate)
        self._groups[start, stop] = self._constants[same]
        try:
            yield
        finally:
            self._groups[start, stop] = before

    def split(self, column: int, batch: int, module: str) -> tuple[Tensor, Split]:
        """The gates [B, 1] of one column and its samples as numbers: for modules that compute some samples only.

        The first call of a step waits for the device, once for all columns. Raises ValueError as `read`.
        """
        gates_B1, _ = self.read(column, column + 1, batch, module)
        if not self._splits:
            assert self._plan is not None
            gates_BC = torch.cat([gates for gates, _ in self._groups.values()], dim=1)
            # A hash of whole numbers is the same in every process.
            seeds = [hash((self._seed, self._num_set, number)) for number in range(gates_BC.shape[1])]
            self._splits = _split(self._plan, gates_BC, seeds)
        return gates_B1, self._splits[column]


def _split(plan: GatePlan, gates_BC: Tensor, seeds: Sequence[int]) -> list[Split]:
    """The split of every column; the drawn samples are put in order of their gates, the frozen ones first."""
    sampled_CM = plan.sampled_CM.long()
    drawn_CM = gates_BC.detach().T.gather(1, sampled_CM)
    skipped_CM = sampled_CM.gather(1, drawn_CM.argsort(dim=1, stable=True))
    counts = torch.stack([plan.num_frozen_C, (drawn_CM == 0).sum(dim=1)]).tolist()
    weight = plan.batch / sampled_CM.shape[1] if plan.batch else 1.0
    return [
        Split(order_B[num_frozen:], skipped_M[:num_skipped], weight, seed)
        for order_B, skipped_M, num_frozen, num_skipped, seed in zip(
            plan.order_CB.long(), skipped_CM, *counts, seeds, strict=True
        )
    ]


def straight_through_gumbel(logits_BD2: Tensor, temperature: float) -> Tensor:
    """Samples gates [B, D]: exactly 0 or 1 forward, the gradient of the softmax at `temperature` backward.

    noise = -log(-log(U + 1e-20) + 1e-20) with U uniform on [0, 1); soft = softmax((logits + noise) /
    temperature)[1]; gate = [logits_1 + noise_1 > logits_0 + noise_0] + (soft - soft.detach()), a tie being
    frozen. All in float32, whatever the dtype of the logits; the sampled gates do not depend on the
    temperature. Raises ValueError unless `temperature` is positive. Source: Jang, Gu, Poole,
    arXiv:1611.01144.
    """
    if not temperature > 0:
        raise ValueError(f"the Gumbel temperature must be positive, got {temperature}")
    uniform_BD2 = torch.rand(logits_BD2.shape, device=logits_BD2.device, dtype=torch.float32)
    noisy_BD2 = logits_BD2.float() - torch.log(-torch.log(uniform_BD2 + 1e-20) + 1e-20)
    soft_BD = torch.softmax(noisy_BD2 / temperature, dim=-1)[..., 1]
    hard_BD = (noisy_BD2[..., 1] > noisy_BD2[..., 0]).float()
    return hard_BD + (soft_BD - soft_BD.detach())


def annealed_temperature(start: float, end: float | None, share: float) -> float:
    """The temperature after `share` of all updates, 0 to 1: start (end / start)^share; without an end it stays.

    Early on all decisions get a gradient; at a low temperature almost only those that the noise could have turned
    do. Source: Jang, Gu, Poole, arXiv:1611.01144.
    """
    return start if end is None else start * (end / start) ** share


def argmax_gates(logits_BD2: Tensor) -> Tensor:
    """The likelier choice as gates [B, D], float32 0 or 1 without gradient; a tie is frozen.

    Logits that are not numbers stay so, for `GateHolder.set` to refuse them.
    """
    margin_BD = (logits_BD2[..., 1].float() - logits_BD2[..., 0].float()).detach()
    return torch.where(margin_BD.isnan(), margin_BD, (margin_BD > 0).float())
