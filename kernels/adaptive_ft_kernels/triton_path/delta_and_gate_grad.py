"""Gradients of deltas and of all gates in one kernel: the work of one dense weight gradient for both.

For each tile of the weight the program walks over the samples, frozen ones first, and adds x[b]^T dy[b] to an
accumulator. <accumulator, delta> grows with each sample by that sample's gate gradient, so the difference of two
neighbours is read off without a second accumulator. Between frozen and tuned samples the accumulator starts anew;
what it holds at the end is the gradient of the delta. The differences are taken per output column and added
afterwards: float32 loses little in them. No atomics, fixed order. Shape suffixes: B samples, S rows per sample,
R = B * S rows, C components, N outputs, K inputs.
"""

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.delta_grad import added, delta_gradient, num_splits
from adaptive_ft_kernels.triton_path.gate_grad import gate_gradient
from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    HALF_DTYPES,
    TYPE_NAMES,
    CompiledForm,
    Dtypes,
    Tile,
    capability,
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


@triton.jit(do_not_specialize=["batch", "rows_per_sample"])
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
    outputs,
    num_outputs,
    num_inputs,
    grad_stride,
    x_stride,
    delta_stride,
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
    grad_ptr = grad + column[:, None] + r[None, :] * grad_stride
    if input_tile == input_tiles:  # one program more per row of tiles takes the bias: the products stay lean
        bias_change = tl.zeros((OUTPUTS,), tl.float32)
        if delta_bias is not None:
            bias_change = tl.load(delta_bias + column, mask=valid, other=0.0).to(tl.float32)
        sums = tl.zeros((OUTPUTS,), tl.float32)
        of_sample = tl.zeros((OUTPUTS,), tl.float32)
        for bias_step in tl.range(first * steps, stop * steps, num_stages=4):
            member = tl.load(order + bias_step // steps)
            tile = _grad_tile(grad_ptr, valid, member, bias_step % steps * ROWS, rows_per_sample, grad_stride, ROWS)
            of_sample += tl.sum(tile.to(tl.float32), axis=1)
            if bias_step % steps == steps - 1:
                tl.store(dots + member.to(tl.int64) * num_outputs, of_sample * bias_change, mask=valid)
                sums += tl.where(bias_step >= tuned * steps, of_sample, 0.0)
                of_sample = tl.zeros((OUTPUTS,), tl.float32)
        tl.store(of_bias + split * num_outputs + column, sums.to(of_bias.dtype.element_ty), mask=valid)
    else:
        i = input_tile * INPUTS + tl.arange(0, INPUTS)
        exists = i < num_inputs
        x_ptr = x + i[None, :] + r[:, None] * x_stride
        written = valid[:, None] & exists[None, :]
        delta_row = column.to(tl.int64)[:, None]
        change = tl.load(delta + delta_row * delta_stride + i[None, :], mask=written, other=0.0)
        change = change.to(x.dtype.element_ty).to(tl.float32)
        acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
        for group in range(2):  # frozen, then tuned
            acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
            before = tl.zeros((OUTPUTS,), tl.float32)
            for step in range(tl.where(group == 0, first, tuned) * steps, tl.where(group == 0, tuned, stop) * steps):
                sample = tl.load(order + step // steps)
                start = step % steps * ROWS
                row = (sample * rows_per_sample + start).to(tl.int64)
                inside = start + r < rows_per_sample
                grad_tile = _grad_tile(grad_ptr, valid, sample, start, rows_per_sample, grad_stride, ROWS)
                x_tile = tl.load(x_ptr + row * x_stride, mask=inside[:, None] & exists[None, :], other=0.0)
                acc = tl.dot(grad_tile, x_tile, acc, input_precision=PRECISION)
                if step % steps == steps - 1:
                    total = tl.sum(acc * change, axis=1)
                    tl.store(dots + sample.to(tl.int64) * num_outputs, total - before, mask=valid)
                    before = total
        weights = (split.to(tl.int64) * num_outputs + delta_row) * num_inputs + i[None, :]
        tl.store(of_weight + weights, acc.to(of_weight.dtype.element_ty), mask=written)


@triton.jit
def _grad_tile(grad_ptr, valid, sample, start, rows_per_sample, stride, ROWS: tl.constexpr):
    """[OUTPUTS, ROWS] of a sample from its row `start` on; `grad_ptr` points to the first rows of the first sample."""
    row = (sample * rows_per_sample + start).to(tl.int64)
    inside = start + tl.arange(0, ROWS) < rows_per_sample
    return tl.load(grad_ptr + row * stride, mask=valid[:, None] & inside[None, :], other=0.0)


def _rows_per_step(rows_per_sample: int) -> int:
    """64 rows, or 32 where these need an eighth fewer."""
    return 32 if 8 * triton.cdiv(rows_per_sample, 32) * 32 <= 7 * triton.cdiv(rows_per_sample, 64) * 64 else 64


def fused_tile(outputs: int, rows_per_sample: int, dtype: torch.dtype, generation: int) -> Tile:
    """The tile for components of `outputs` columns: outputs x inputs (`inner`), in steps of `rows`.

    The delta waits in registers beside the accumulator: on an A100 that leaves room for small tiles only.
    """
    if dtype == torch.float32:
        return Tile(64, rows=32, inner=64, num_warps=4, num_stages=3)
    step = _rows_per_step(rows_per_sample)
    if generation >= 90 and outputs > 64:
        return Tile(128, step, 128, num_warps=8, num_stages=5)
    return Tile(64, step, 128, num_warps=4 if generation >= 90 else 8, num_stages=5)


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

    In one kernel where all gate gradients are wanted and that pays, else in two.
    """
    dtype = delta_weight_NK.dtype
    if sampled_CM.shape[1] == len(x_BSK) and fused_pays(x_BSK.shape[1], x_BSK.dtype):
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
    their share of the bias. The first two in `dtype`, the last in float32. The delta is rounded to the dtype of x;
    sums are float32.
    """
    components, batch = order_CB.shape
    grad_RN, x_RK = grad_BSN.flatten(0, 1), x_BSK.flatten(0, 1)
    (num_rows, num_outputs), num_inputs = grad_RN.shape, x_RK.shape[1]
    outputs, rows_per_sample = num_outputs // components, num_rows // batch
    tile = fused_tile(outputs, rows_per_sample, x_RK.dtype, capability(x_RK.device))
    output_tiles, input_tiles = triton.cdiv(outputs, tile.outputs), triton.cdiv(num_inputs, tile.inner)
    splits = num_splits(components * output_tiles * input_tiles, batch // SAMPLES_PER_SPLIT)
    sum_dtype = dtype if splits == 1 else torch.float32
    of_weight = x_RK.new_empty(splits, num_outputs, num_inputs, dtype=sum_dtype)
    of_bias = x_RK.new_empty(splits, num_outputs, dtype=sum_dtype)
    column_dots = x_RK.new_empty(input_tiles + 1, batch, num_outputs, dtype=torch.float32)
    with launching_on(x_RK):
        _delta_and_gate_kernel[(output_tiles * (input_tiles + 1), components, splits)](
            *(grad_RN, x_RK, delta_weight_NK, delta_bias_N, order_CB, num_frozen_C, of_weight, of_bias, column_dots),
            *(batch, rows_per_sample, triton.cdiv(rows_per_sample, tile.rows), outputs, num_outputs, num_inputs),
            *(grad_RN.stride(0), x_RK.stride(0), delta_weight_NK.stride(0)),
            **_constants(tile, dot_precision(x_RK.dtype)),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    of_gates = column_dots.view(-1, batch, components, outputs).sum((0, 3))
    return added(of_weight, dtype), added(of_bias, dtype), of_gates


def _constants(tile: Tile, precision: str) -> dict[str, int | str]:
    return {"OUTPUTS": tile.outputs, "INPUTS": tile.inner, "ROWS": tile.rows, "PRECISION": precision}


def compiled_forms() -> Iterator[CompiledForm]:
    """The forms that `delta_and_gate_gradient` launches, with biases and float32 sums (else they only round them)."""
    # Steps of 64 and 32 rows; Triton compiles one step per sample apart.
    for dtypes, outputs, rows_per_sample in product(HALF_DTYPES, (64, 128), (56, 120, 96)):
        for generation in CAPABILITIES:
            if outputs == 64 or generation >= 90:
                yield _form(dtypes, outputs, rows_per_sample, generation)


def _form(dtypes: Dtypes, outputs: int, rows_per_sample: int, generation: int) -> CompiledForm:
    tile = fused_tile(outputs, rows_per_sample, dtypes.rows, generation)
    aligned = ("outputs", "num_outputs", "num_inputs", "grad_stride", "x_stride", "delta_stride")
    signature = dict.fromkeys(("grad", "x"), f"*{TYPE_NAMES[dtypes.rows]}")
    signature |= dict.fromkeys(("delta", "delta_bias"), f"*{TYPE_NAMES[dtypes.weights]}")
    signature |= dict.fromkeys(("of_weight", "of_bias", "column_dots"), "*fp32")
    signature |= dict.fromkeys(("order_CB", "num_frozen_C"), "*i32")
    signature |= dict.fromkeys(("batch", "rows_per_sample", *aligned), "i32")
    constants = dict(_constants(tile, "ieee"))
    if rows_per_sample <= tile.rows:
        constants["steps"] = 1
    else:
        signature["steps"] = "i32"
    return CompiledForm(
        name=f"delta_and_gate_grad-{'-'.join(TYPE_NAMES[dtype] for dtype in dtypes)}-{outputs}-{rows_per_sample}rows",
        kernel=_delta_and_gate_kernel,
        signature=signature,
        constants=constants,
        capability=generation,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=aligned,
        tensor_cores=True,
    )
