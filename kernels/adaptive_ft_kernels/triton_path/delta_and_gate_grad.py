"""Gradients of deltas and of all gates in one kernel: the work of one dense weight gradient for both.

For each tile of the weight the program walks over the samples, frozen ones first, and adds x[b]^T dy[b] to an
accumulator. <accumulator, delta> grows with each sample by that sample's gate gradient, so the difference of two
neighbours is read off without a second accumulator. Between frozen and tuned samples the accumulator starts anew;
what it holds at the end is the gradient of the delta. The differences are taken per output column and added
afterwards: float32 loses little in them. No atomics, fixed order. All tensors are contiguous. Shape suffixes:
B samples, S rows per sample, C components, N outputs, K inputs.
"""

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.delta_grad import added, constants_of, delta_gradient, num_splits
from adaptive_ft_kernels.triton_path.gate_grad import gate_gradient
from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    HALF_DTYPES,
    TYPE_NAMES,
    CompiledForm,
    Dtypes,
    Tile,
    capability_of,
    copied_whole,
    dot_precision,
    launching_on,
)

# A split of fewer samples would spend more time on writing and adding its partial sum than on the product.
SAMPLES_PER_SPLIT = 8


def fused_pays(rows_per_sample: int, dtype: torch.dtype) -> bool:
    """Whether both gradients in one kernel beat two kernels, all gates evaluated.

    One kernel does 1 unit of work, two do 1 + p; but each sample is padded to whole steps, so up to a fifth may be
    padding. In float32 the dot product would cost as much as the tile it belongs to.
    """
    step = _rows_per_step(rows_per_sample)
    padded = triton.cdiv(rows_per_sample, step) * step
    return dtype != torch.float32 and rows_per_sample >= 48 and padded <= 1.2 * rows_per_sample


# Neither the batch nor the place of a layer's columns in the plan of a step shall compile another form.
@triton.jit(do_not_specialize=["delta_bias", "order_CB", "num_frozen_C", "batch", "rows_per_sample"])
def _delta_and_gate_kernel(
    grad,  # [rows, num_outputs]
    x,  # [rows, num_inputs]
    delta,  # [num_outputs, num_inputs]
    delta_bias,  # [num_outputs] or None
    order_CB,
    num_frozen_C,
    of_weight,  # [splits, num_outputs, num_inputs]
    of_bias,  # [splits, num_outputs]
    column_dots,  # [input tiles + 1, batch, num_outputs]: the last one holds the share of the bias
    batch,
    rows_per_sample,
    steps,  # per sample
    outputs,  # of one component
    num_outputs,
    num_inputs,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    input_tiles = tl.cdiv(num_inputs, INPUTS)
    input_tile = tl.program_id(0) % (input_tiles + 1)
    component = tl.program_id(1)
    split = tl.program_id(2)
    order = order_CB + component * batch
    o = tl.program_id(0) // (input_tiles + 1) * OUTPUTS + tl.arange(0, OUTPUTS)
    valid = o < outputs
    column = component * outputs + o
    dots = column_dots + input_tile.to(tl.int64) * batch * num_outputs + column
    share = tl.cdiv(batch, tl.num_programs(2))
    first = split * share
    stop = tl.minimum(first + share, batch)
    tuned = tl.minimum(tl.maximum(tl.load(num_frozen_C + component), first), stop)
    r = tl.arange(0, ROWS)
    grad_ptr = grad + column[:, None] + r[None, :] * num_outputs
    if input_tile == input_tiles:  # one program more per row of tiles takes the bias: the products stay lean
        delta_column = tl.zeros((OUTPUTS,), tl.float32)
        if delta_bias is not None:
            delta_column = tl.load(delta_bias + column, mask=valid, other=0.0).to(tl.float32)
        sums = _bias_sums(
            grad_ptr, valid, order, delta_column, dots, first, tuned, stop, steps, rows_per_sample, num_outputs, ROWS
        )
        tl.store(of_bias + split * num_outputs + column, sums.to(of_bias.dtype.element_ty), mask=valid)
    else:
        i = input_tile * INPUTS + tl.arange(0, INPUTS)
        exists = i < num_inputs
        x_ptr = x + i[None, :] + r[:, None] * num_inputs
        written = valid[:, None] & exists[None, :]
        weights = column.to(tl.int64)[:, None] * num_inputs + i[None, :]
        delta_tile = tl.load(delta + weights, mask=written, other=0.0)
        acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
        for group in range(2):  # frozen, then tuned
            acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
            before = tl.zeros((OUTPUTS,), tl.float32)
            for step in range(tl.where(group == 0, first, tuned) * steps, tl.where(group == 0, tuned, stop) * steps):
                sample = tl.load(order + step // steps)
                start = step % steps * ROWS
                row = (sample * rows_per_sample + start).to(tl.int64)
                inside = start + r < rows_per_sample
                grad_tile = _grad_tile(grad_ptr, valid, sample, start, rows_per_sample, num_outputs, ROWS)
                x_tile = tl.load(x_ptr + row * num_inputs, mask=inside[:, None] & exists[None, :], other=0.0)
                acc = tl.dot(grad_tile, x_tile, acc, input_precision=PRECISION)
                if step % steps == steps - 1:
                    total = tl.sum(acc * delta_tile.to(tl.float32), axis=1)
                    tl.store(dots + sample.to(tl.int64) * num_outputs, total - before, mask=valid)
                    before = total
        weights += split.to(tl.int64) * num_outputs * num_inputs
        tl.store(of_weight + weights, acc.to(of_weight.dtype.element_ty), mask=written)


@triton.jit
def _bias_sums(
    grad_ptr, valid, order, delta_column, dots,
    first, tuned, stop, steps, rows_per_sample, num_outputs,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Column sums over the rows of the tuned samples; each sample's own go to `dots`, times the delta of the bias."""
    sums = tl.zeros_like(delta_column)
    of_sample = tl.zeros_like(delta_column)
    for step in tl.range(first * steps, stop * steps, num_stages=4):
        sample = tl.load(order + step // steps)
        grad_tile = _grad_tile(grad_ptr, valid, sample, step % steps * ROWS, rows_per_sample, num_outputs, ROWS)
        of_sample += tl.sum(grad_tile.to(tl.float32), axis=1)
        if step % steps == steps - 1:
            tl.store(dots + sample.to(tl.int64) * num_outputs, of_sample * delta_column, mask=valid)
            sums += tl.where(step >= tuned * steps, of_sample, 0.0)
            of_sample = tl.zeros_like(delta_column)
    return sums


@triton.jit
def _grad_tile(grad_ptr, valid, sample, start, rows_per_sample, num_outputs, ROWS: tl.constexpr):
    """[OUTPUTS, ROWS] of a sample from its row `start` on; `grad_ptr` points to the first rows of the first sample."""
    row = (sample * rows_per_sample + start).to(tl.int64)
    inside = start + tl.arange(0, ROWS) < rows_per_sample
    return tl.load(grad_ptr + row * num_outputs, mask=valid[:, None] & inside[None, :], other=0.0)


def _rows_per_step(rows_per_sample: int) -> int:
    """64 rows, or 32 where these need an eighth fewer."""
    return 32 if 8 * triton.cdiv(rows_per_sample, 32) * 32 <= 7 * triton.cdiv(rows_per_sample, 64) * 64 else 64


def fused_tile(outputs: int, rows_per_sample: int, capability: int) -> Tile:
    """The tile for components of `outputs` columns: m outputs x n inputs, in steps of k rows.

    The delta waits in registers beside the accumulator: on an A100 that leaves room for small tiles only.
    """
    step = _rows_per_step(rows_per_sample)
    if capability >= 90 and outputs > 64:
        return Tile(128, 128, step, num_warps=8, num_stages=5)
    return Tile(64, 128, step, num_warps=4 if capability >= 90 else 8, num_stages=5)


def delta_and_gate_gradient(
    grad_BSN: Tensor,
    x_BSK: Tensor,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
    sampled_CM: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(d delta [N, K], d delta_bias [N], dg [B, C]): the first two in the dtype of delta, the last in float32.

    In one kernel where all gate gradients are wanted and that pays, else in two. All tensors are contiguous.
    """
    dtype = delta_weight_NK.dtype
    sizes = grad_BSN.shape[2] // order_CB.shape[0], x_BSK.shape[2]
    # Numbers copied one by one would spill beside the delta in registers; the two kernels have tiles for them.
    even = copied_whole((grad_BSN, x_BSK, delta_weight_NK), *sizes)
    if even and sampled_CM.shape[1] == len(x_BSK) and fused_pays(x_BSK.shape[1], x_BSK.dtype):
        return fused_gradients(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, order_CB, num_frozen_C, dtype)
    of_delta_NK, of_delta_bias_N = delta_gradient(grad_BSN, x_BSK, order_CB, num_frozen_C, dtype)
    return of_delta_NK, of_delta_bias_N, gate_gradient(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, sampled_CM)


def fused_gradients(
    grad_BSN: Tensor,
    x_BSK: Tensor,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """(d delta [N, K], d delta_bias [N], dg [B, C]) in one kernel, for all gates.

    d delta_c = sum over the tuned samples b of dy[b, c]^T x[b], and dg[b, c] = <dy[b, c]^T x[b], delta_c>, both with
    their share of the bias. The first two in `dtype`, the last in float32. Sums are float32. All tensors are
    contiguous.
    """
    components, batch = order_CB.shape
    rows_per_sample, num_outputs, num_inputs = *grad_BSN.shape[1:], x_BSK.shape[2]
    outputs = num_outputs // components
    tile = fused_tile(outputs, rows_per_sample, capability_of(x_BSK.device))
    output_tiles, input_tiles = triton.cdiv(outputs, tile.m), triton.cdiv(num_inputs, tile.n)
    splits = num_splits(components * output_tiles * input_tiles, batch // SAMPLES_PER_SPLIT)
    sum_dtype = dtype if splits == 1 else torch.float32
    of_weight = x_BSK.new_empty(splits, num_outputs, num_inputs, dtype=sum_dtype)
    of_bias = x_BSK.new_empty(splits, num_outputs, dtype=sum_dtype)
    column_dots = x_BSK.new_empty(input_tiles + 1, batch, num_outputs, dtype=torch.float32)
    with launching_on(x_BSK):
        _delta_and_gate_kernel[(output_tiles * (input_tiles + 1), components, splits)](
            *(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, order_CB, num_frozen_C, of_weight, of_bias, column_dots),
            batch=batch,
            rows_per_sample=rows_per_sample,
            steps=triton.cdiv(rows_per_sample, tile.k),
            outputs=outputs,
            num_outputs=num_outputs,
            num_inputs=num_inputs,
            **constants_of(tile, dot_precision(x_BSK.dtype)),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    of_gates = column_dots.view(-1, batch, components, outputs).sum((0, 3))
    return added(of_weight, dtype), added(of_bias, dtype), of_gates


def compiled_forms() -> Iterator[CompiledForm]:
    """The forms that `delta_and_gate_gradient` launches, with biases and float32 sums (else they only round them)."""
    # Steps of 64 and 32 rows; Triton compiles one step per sample apart.
    for dtypes, outputs, rows_per_sample in product(HALF_DTYPES, (64, 128), (56, 120, 96)):
        for capability in CAPABILITIES:
            if outputs == 64 or capability >= 90:
                yield _form(dtypes, outputs, rows_per_sample, capability)


def _form(dtypes: Dtypes, outputs: int, rows_per_sample: int, capability: int) -> CompiledForm:
    tile = fused_tile(outputs, rows_per_sample, capability)
    sizes = ("outputs", "num_outputs", "num_inputs")
    signature = dict.fromkeys(("grad", "x"), f"*{TYPE_NAMES[dtypes.rows]}")
    signature |= dict.fromkeys(("delta", "delta_bias"), f"*{TYPE_NAMES[dtypes.weights]}")
    signature |= dict.fromkeys(("of_weight", "of_bias", "column_dots"), "*fp32")
    signature |= dict.fromkeys(("order_CB", "num_frozen_C"), "*i32")
    signature |= dict.fromkeys(("batch", "rows_per_sample", *sizes), "i32")
    one_step = rows_per_sample <= tile.k
    return CompiledForm(
        name=f"delta_and_gate_grad-{'-'.join(TYPE_NAMES[dtype] for dtype in dtypes)}"
        f"-{tile.m}x{tile.n}x{tile.k}-{'one_step' if one_step else 'steps'}",
        kernel=_delta_and_gate_kernel,
        signature=signature if one_step else signature | {"steps": "i32"},
        constants=constants_of(tile, "ieee") | ({"steps": 1} if one_step else {}),
        capability=capability,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=sizes,
        tensor_cores=True,
    )
