"""Bytes that one rank holds for the parameters of a model under each ZeRO stage, from their sizes alone.

What DeepSpeed 0.19 keeps, with b bytes a parameter (4 in fp32, 2 in bf16), N ranks, T trained and F frozen parameters:

    stage          frozen  trained  gradients         optimizer  masters
    0              b F     b T      b T, 6 T in bf16  8 T        4 T in bf16, none in fp32
    1, 2           b F     b T      b T/N + 4 G/N     8 T/N      4 T/N, in fp32 too
    3              b F/N   b T/N    b T/N + 4 G/N     8 T/N      4 T/N, in fp32 too
    1, accumulating in fp32 (ds_configs/bf16.json)
                   b F     b T      4 T + b T         8 T/N      4 T/N

gradients: at the update, with the float32 copy it works on, of one optimizer group after the other: G is the largest
(with offloading all of them, G = T). Divisions round up: stages 1 and 2 fill every optimizer group up to a multiple of
2N, stage 3 every parameter to one of N. Under stages 1 and 2 a rank keeps the gradients of all parameters that its part
touches, whole: with many ranks that is one large embedding rather than T/N.

`transient`, at the most: the buffer in which stages 1 to 3 collect gradients for one reduction; the flat copy that
stages 0 to 2 make of what they reduce at once, at stage 0 and in ds_configs/bf16.json of 5 * 10^8 elements and one more
parameter or group (at stage 0 in bf16 it is gone before the float32 gradients come, which are more); all gradients,
b T, which stage 1 has until the backward pass is over; with stage 2 and offloading two buffers of the largest
parameter, one on the device and one on the host; and under stage 3 the parameters that are whole at one time.
Activations are not included: they depend on the batch, and a run logs its peak memory (`time/peak_memory_gib`).

tests/cluster/test_memory.py compares all of this with the tensors of real engines on two ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MASTER_BYTES, ADAM_BYTES = 4, 8
PRECISION_BYTES = {"fp32": 4, "bf16": 2}
ALIGNMENT = 2  # elements to which stages 1 and 2 fill up every rank's part of a group
BUCKET, LIVE, PERSISTENT = 500_000_000, 1_000_000_000, 100_000  # DeepSpeed's defaults, in elements


@dataclass(frozen=True)
class ParameterSizes:
    """How many elements each parameter has: the frozen ones, and the trained ones by optimizer group in its order;
    and once more those of layers that gradient checkpointing runs again in the backward pass.
    """

    frozen: Sequence[int]
    trained: Mapping[str, Sequence[int]]
    recomputed_frozen: Sequence[int] = ()
    recomputed_trained: Sequence[int] = ()

    @property
    def trained_flat(self) -> list[int]:
        """The trained ones in one list."""
        return [size for group in self.trained.values() for size in group]

    @property
    def num_frozen(self) -> int:
        """F."""
        return sum(self.frozen)

    @property
    def num_trained(self) -> int:
        """T."""
        return sum(self.trained_flat)


@dataclass(frozen=True)
class RankBytes:
    """What one rank holds, in bytes; with offloading some of it lies in the host's memory (`host`, part of the sum)."""

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    masters: int
    transient: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """Everything but `transient`, wherever it lies."""
        return self.frozen + self.trained + self.gradients + self.optimizer + self.masters

    @property
    def device(self) -> int:
        """What of the whole, `transient` included, lies on the device."""
        return self.total + self.transient - self.host


def rank_bytes(sizes: ParameterSizes, ds_config: Mapping[str, Any], precision: str, world_size: int) -> RankBytes:
    """What the fullest rank holds under a DeepSpeed config, by the module's table.

    ds_config: as in ds_configs/; its stage, offloading, bucket and persistence settings and grad_accum_dtype count.
    """
    zero = ds_config.get("zero_optimization", {})
    stage = int(zero.get("stage", 0))
    if stage == 0:
        return _replicated(sizes, PRECISION_BYTES[precision])
    if stage == 3:
        return _all_split(sizes, zero, PRECISION_BYTES[precision], world_size)
    if accumulates_in_fp32(ds_config, precision):
        return _accumulating_in_fp32(sizes, PRECISION_BYTES[precision], world_size)
    return _optimizer_split(sizes, zero, PRECISION_BYTES[precision], world_size)


def accumulates_in_fp32(ds_config: Mapping[str, Any], precision: str) -> bool:
    """Whether DeepSpeed's BF16_Optimizer runs: stage 1 that adds bfloat16 gradients up in float32."""
    asked = ds_config.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    return bool(asked and precision == "bf16" and ds_config["zero_optimization"]["stage"] == 1)


def padded_groups(sizes: ParameterSizes, world_size: int) -> list[int]:
    """Elements of each optimizer group, filled up so that every rank's part is of one even size (stages 1 and 2)."""
    unit = ALIGNMENT * world_size
    return [math.ceil(sum(group) / unit) * unit for group in sizes.trained.values()]


def split_elements(parameters: Sequence[int], world_size: int) -> int:
    """A rank's elements of parameters that are split one by one (stage 3)."""
    return sum(math.ceil(size / world_size) for size in parameters)


def _replicated(sizes: ParameterSizes, width: int) -> RankBytes:
    trained = sizes.num_trained
    is_half = width < MASTER_BYTES
    return RankBytes(
        frozen=width * sizes.num_frozen,
        trained=width * trained,
        gradients=(width + is_half * MASTER_BYTES) * trained,
        optimizer=ADAM_BYTES * trained,
        masters=is_half * MASTER_BYTES * trained,
        transient=max(0, width * _reduced_at_once(sizes.trained_flat) - is_half * MASTER_BYTES * trained),
    )


def _reduced_at_once(parameters: Sequence[int]) -> int:
    """Elements of the largest bucket that is full once it holds more than `BUCKET`, whatever the order, at the most."""
    return min(sum(parameters), BUCKET + max(parameters, default=0))


def _optimizer_split(sizes: ParameterSizes, zero: Mapping[str, Any], width: int, world_size: int) -> RankBytes:
    groups = padded_groups(sizes, world_size)
    own = sum(groups) // world_size
    on_host = _device_of(zero, "offload_optimizer") == "cpu"
    kept = width * touched_elements(sizes, world_size)
    # The kept gradients go with the last group's.
    *others, last = (MASTER_BYTES * size // world_size for size in groups)
    # With offloading the reduced gradients go to the host as float32 at once; a buffer there brings the weights back.
    gradients = MASTER_BYTES * own if on_host else max(last, kept + max(others, default=0))
    bucket = int(zero.get("reduce_bucket_size", BUCKET))
    buffers = bucket * (2 if zero.get("overlap_comm") else 1) + min(bucket, sizes.num_trained)
    unreduced = sizes.num_trained if zero["stage"] == 1 else 0
    largest = max(sizes.trained_flat, default=0) if on_host else 0
    return RankBytes(
        frozen=width * sizes.num_frozen,
        trained=width * sum(groups) + (width * own if on_host else 0),
        gradients=gradients,
        optimizer=ADAM_BYTES * own,
        masters=MASTER_BYTES * own,
        transient=width * (buffers + unreduced + 2 * largest),
        host=on_host * (2 * MASTER_BYTES + ADAM_BYTES + width) * own + width * largest,
    )


def _accumulating_in_fp32(sizes: ParameterSizes, width: int, world_size: int) -> RankBytes:
    groups = padded_groups(sizes, world_size)
    own = sum(groups) // world_size
    return RankBytes(
        frozen=width * sizes.num_frozen,
        trained=width * sum(groups),
        gradients=MASTER_BYTES * sum(groups) + width * sizes.num_trained,
        optimizer=ADAM_BYTES * own,
        masters=MASTER_BYTES * own,
        # The float32 gradients in one piece, and that piece in the precision in which it is sent.
        transient=(MASTER_BYTES + width) * _reduced_at_once(groups),
    )


def _all_split(sizes: ParameterSizes, zero: Mapping[str, Any], width: int, world_size: int) -> RankBytes:
    groups = [split_elements(group, world_size) for group in sizes.trained.values()]
    own, own_frozen = sum(groups), split_elements(sizes.frozen, world_size)
    optimizer_on_host = _device_of(zero, "offload_optimizer") == "cpu"
    host = optimizer_on_host * (2 * MASTER_BYTES + ADAM_BYTES + width) * own
    if _device_of(zero, "offload_param") == "cpu":
        host += width * (own + own_frozen)
    return RankBytes(
        frozen=width * own_frozen,
        trained=width * own,
        gradients=width * own + MASTER_BYTES * (own if optimizer_on_host else max(groups)),
        optimizer=ADAM_BYTES * own,
        masters=MASTER_BYTES * own,
        transient=width * (whole_elements(sizes, zero) + int(zero.get("reduce_bucket_size", BUCKET))),
        host=host,
    )


def whole_elements(sizes: ParameterSizes, zero: Mapping[str, Any]) -> int:
    """Elements that stage 3 holds whole at one time: the small parameters always, of the others at most what
    `stage3_max_live_parameters` allows.
    """
    parameters = [*sizes.frozen, *sizes.trained_flat]
    small = sum(size for size in parameters if is_persistent(size, zero))
    live = int(zero.get("stage3_max_live_parameters", LIVE))
    return small + min(sum(parameters) - small, live)


def is_persistent(size: int, zero: Mapping[str, Any]) -> bool:
    """Whether stage 3 keeps a parameter of this size whole on every rank, once it has been gathered."""
    return size <= int(zero.get("stage3_param_persistence_threshold", PERSISTENT))


def touched_elements(sizes: ParameterSizes, world_size: int) -> int:
    """Elements of all parameters that a rank's parts of the groups touch, for the rank that has most of them.

    Of group g rank r owns the elements [r p, (r + 1) p), p the padded size over N; a parameter at the edge belongs to
    two ranks, and a large one to many.
    """
    held = [0] * world_size
    for group, padded in zip(sizes.trained.values(), padded_groups(sizes, world_size), strict=True):
        part, start = padded // world_size, 0
        for size in group:
            for rank in range(start // part, (start + size - 1) // part + 1):
                held[rank] += size
            start += size
    return max(held)


def _device_of(zero: Mapping[str, Any], block: str) -> str:
    return str(zero.get(block, {}).get("device", "none"))
