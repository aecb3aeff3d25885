"""Bytes that the ranks exchange: counted while they do, and foretold from the sizes of the parameters.

One update moves, with b bytes a parameter (4 in fp32, 2 in bf16), T trained and F frozen ones:

    stage                     all_reduce  reduce_scatter  all_gather
    0                         b T         -               -
    1, 2                      b T         -               b T
    3                         -           b T             b (T + F), or more

Frozen parameters are never reduced; under stage 3 they are gathered with the others. Those above
`stage3_param_persistence_threshold`, L elements of which R_F frozen and R_T trained ones lie in layers that gradient
checkpointing runs again, are gathered

    L + R_F                  while the model is whole from the forward to the backward pass
    2 L + R_F + R_T          in a model with more than `stage3_max_live_parameters` or `stage3_max_reuse_distance`
                             (10^9) such elements

(DeepSpeed releases what is frozen after recomputing, whatever the limits allow); the small ones, whole on every
rank, once after the update. DeepSpeed's stage 2 reduces with all_reduce, not reduce_scatter
(`use_multi_rank_bucket_allreduce`), so it moves as much as stage 1. Each accumulated micro-batch gathers (stage 3) and
reduces (stages 2 and 3) once more.

Left out, because sizes do not tell it: in the second case a module with more than one use in a forward pass is gathered
for each use, at most 2 times more (3 where it is recomputed). Of the families only LXMERT has one, its cross-attention.

These are payloads: the bytes of the whole tensor. What a rank sends of it in a ring of N ranks is 2 (N - 1) / N for
all_reduce and (N - 1) / N for the others (Patarasuk and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002).

tests/cluster/test_traffic.py compares both on 1, 2 and 4 ranks.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adaptive_ft.engine.memory import (
    LIVE,
    PRECISION_BYTES,
    ParameterSizes,
    accumulates_in_fp32,
    is_persistent,
    padded_groups,
    split_elements,
)

# Part of a collective's name in torch's dispatcher -> what it is here, with the argument that holds the whole tensor.
COLLECTIVES = {
    "allreduce": ("all_reduce", 0),
    "reduce_scatter": ("reduce_scatter", 1),
    "allgather": ("all_gather", 0),
    "broadcast": ("broadcast", 0),
    "reduce_": ("reduce", 0),
    "alltoall": ("all_to_all", 0),
    "gather": ("gather", 0),
    "scatter": ("scatter", 0),
}
SMALL = 8
"""Bytes of a flag, a norm or a count that is reduced or broadcast, no parameters: counted as "small"."""


class TrafficCounter(TorchDispatchMode):
    """Inside `with TrafficCounter() as counter`, every collective of this process adds its payload to `counter.bytes`.

    `bytes` and `calls` are by kind: "all_reduce", "reduce_scatter", "all_gather", ..., and "small" for flags and
    norms of at most `SMALL` bytes. Collectives are seen where torch dispatches them, whoever calls; nothing is changed
    or awaited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operator.namespace == "c10d":
            found = next((value for part, value in COLLECTIVES.items() if part in operator.__name__), None)
            if found:
                kind, place = found
                payload = _bytes_of(args[place])
                if payload <= SMALL and kind in ("all_reduce", "broadcast"):
                    kind = "small"
                self.bytes[kind] += payload
                self.calls[kind] += 1
        return operator(*args, **(kwargs or {}))


class TimedTraffic(TrafficCounter):
    """A counter that also waits for every collective: `seconds` is what they take when nothing hides them.

    Waiting for slower ranks is part of that, computing that was queued before is not.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.seconds = 0.0
        self._device = device

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operator.namespace != "c10d":
            return operator(*args, **(kwargs or {}))
        self._settle()
        began = time.perf_counter()
        result = super().__torch_dispatch__(operator, types, args, kwargs)
        for work in result if isinstance(result, list | tuple) else [result]:
            if isinstance(work, torch.ScriptObject) and hasattr(work, "wait"):
                work.wait()
        self._settle()
        self.seconds += time.perf_counter() - began
        return result

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def step_traffic(
    sizes: ParameterSizes, ds_config: Mapping[str, Any], precision: str, world_size: int, micro_batches: int = 1
) -> dict[str, int]:
    """Payload bytes by kind of one update, by the module's table.

    Exact but for what `SMALL` leaves out and, where stage 3 gathers twice, for modules with several uses (more) and the
    last layers of the forward pass, which may still be whole (less). A single rank reduces with itself and gathers
    nothing. Under stage 3 an update after the second: the first gathers more, the second agrees on the order of the
    modules.
    """
    zero = ds_config.get("zero_optimization", {})
    stage, width = int(zero.get("stage", 0)), PRECISION_BYTES[precision]
    if world_size == 1 and stage:
        reductions = micro_batches if stage > 1 else 1
        return {"reduce_scatter" if stage == 3 else "all_reduce": width * reductions * sizes.num_trained}
    trained = width * sizes.num_trained
    if stage == 0:
        return {"all_reduce": trained}
    if stage < 3:
        padded = width * sum(padded_groups(sizes, world_size))
        reduced = padded if accumulates_in_fp32(ds_config, precision) else trained
        return {"all_reduce": reduced * (micro_batches if stage == 2 else 1), "all_gather": padded}
    return {
        "reduce_scatter": width * micro_batches * _split_whole(sizes.trained_flat, world_size),
        "all_gather": width * _gathered(sizes, zero, world_size, micro_batches),
    }


def sent_bytes(payloads: Mapping[str, int], world_size: int) -> int:
    """What one rank sends of these payloads in a ring of `world_size` ranks."""
    share = (world_size - 1) / world_size
    return round(sum(share * size * (2 if kind == "all_reduce" else 1) for kind, size in payloads.items()))


def _gathered(sizes: ParameterSizes, zero: Mapping[str, Any], world_size: int, micro_batches: int) -> int:
    parameters = [*sizes.frozen, *sizes.trained_flat]
    large = [size for size in parameters if not is_persistent(size, zero)]
    small = [size for size in parameters if is_persistent(size, zero)]
    kept = min(int(zero.get(f"stage3_max_{limit}", LIVE)) for limit in ("live_parameters", "reuse_distance"))
    again = [*sizes.recomputed_frozen]
    if sum(large) > kept:
        again += [*large, *sizes.recomputed_trained]
    again = [size for size in again if not is_persistent(size, zero)]
    return micro_batches * _split_whole([*large, *again], world_size) + _split_whole(small, world_size)


def _split_whole(parameters: list[int], world_size: int) -> int:
    """Elements of parameters that are each filled up to a multiple of the ranks."""
    return world_size * split_elements(parameters, world_size)


def _bytes_of(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    if isinstance(tensors, torch.ScriptObject):
        return 0
    return sum(map(_bytes_of, tensors)) if isinstance(tensors, list | tuple) else 0
