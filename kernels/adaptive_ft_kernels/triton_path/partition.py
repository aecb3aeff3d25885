"""Sorts the samples of every column by gate: one launch for all columns of a step.

Shape suffixes: B samples, C components.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.tiles import CAPABILITIES, CompiledForm, launching_on

NUM_WARPS = 4
# Samples per step of a column's loop; a batch that fits is read twice but needs no second step.
FEW, MANY = 128, 1024


def partition(gates_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """order_CB int32 (frozen samples first, rising), num_frozen_C int32, and the number of gates other than 0 and 1.

    Such a gate, not-a-number included, counts as tuned.
    """
    batch, num_components = gates_BC.shape
    order_CB = gates_BC.new_empty(num_components, batch, dtype=torch.int32)
    counts_2C = gates_BC.new_empty(2, num_components, dtype=torch.int32)
    with launching_on(gates_BC):
        _partition[(num_components,)](
            *(gates_BC, order_CB, counts_2C),
            batch=batch,
            num_components=num_components,
            sample_stride=gates_BC.stride(0),
            component_stride=gates_BC.stride(1),
            SAMPLES=FEW if batch <= FEW else MANY,
            num_warps=NUM_WARPS,
        )
    num_frozen_C, num_faulty_C = counts_2C
    return order_CB, num_frozen_C, num_faulty_C.sum(dtype=torch.int32)


# Neither the batch nor the layout of the gates shall compile another form.
@triton.jit(do_not_specialize=["gates", "batch", "num_components", "sample_stride", "component_stride"])
def _partition(
    gates, order, counts, batch, num_components, sample_stride, component_stride, SAMPLES: tl.constexpr
):  # fmt: skip
    """One program per column: counts its frozen samples, then writes each sample to its place."""
    component = tl.program_id(0).to(tl.int64)
    column = gates + component * component_stride
    num_frozen = 0
    num_faulty = 0
    for start in range(0, batch, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)
        gate = tl.load(column + sample.to(tl.int64) * sample_stride, mask=sample < batch, other=1).to(tl.float32)
        num_frozen += tl.sum((gate == 0).to(tl.int32), 0)
        num_faulty += tl.sum(((gate != 0) & (gate != 1)).to(tl.int32), 0)
    tl.store(counts + component, num_frozen)
    tl.store(counts + num_components + component, num_faulty)
    frozen_before = 0
    for start in range(0, batch, SAMPLES):
        sample = start + tl.arange(0, SAMPLES)
        gate = tl.load(column + sample.to(tl.int64) * sample_stride, mask=sample < batch, other=1).to(tl.float32)
        frozen = (gate == 0).to(tl.int32)
        # How many frozen samples come before this one; all others before it are tuned.
        rank = frozen_before + tl.cumsum(frozen, 0) - frozen
        place = tl.where(frozen == 1, rank, num_frozen + sample - rank)
        tl.store(order + component * batch + place, sample, mask=sample < batch)
        frozen_before += tl.sum(frozen, 0)


def compiled_forms() -> Iterator[CompiledForm]:
    """Gates come in float32, or in 16 bits where the policy runs in them."""
    for capability in CAPABILITIES:
        for gates, samples in (("fp32", FEW), ("fp32", MANY), ("bf16", MANY)):
            integers = ("batch", "num_components", "sample_stride", "component_stride")
            yield CompiledForm(
                name=f"partition-{gates}-{samples}",
                kernel=_partition,
                signature={"gates": f"*{gates}", "order": "*i32", "counts": "*i32", **dict.fromkeys(integers, "i32")},
                constants={"SAMPLES": samples},
                capability=capability,
                num_warps=NUM_WARPS,
                num_stages=1,
                aligned=(),
                tensor_cores=False,
            )
