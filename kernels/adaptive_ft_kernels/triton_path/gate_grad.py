"""Gradient of the gates of a gated linear layer: x delta^T, dotted with dy inside the kernel, never in memory.

The epilogue of each tile sums along its output columns and leaves one number per row and segment of columns; the
sum over a sample's rows and segments follows in a fixed order. Shape suffixes: B samples, S rows per sample, C
components, N outputs, K inputs, M samples whose gate gradient is evaluated.
"""

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    TYPE_NAMES,
    CompiledForm,
    Tile,
    dot_precision,
    launching_on,
)


@triton.jit(do_not_specialize=["num_rows", "rows_per_sample"])
def _gate_gradient_kernel(
    grad,  # [all rows, groups * outputs]
    x,  # [all rows, num_inputs]
    delta,  # [groups * outputs, num_inputs]
    delta_bias,  # [groups * outputs] or None
    sampled,  # [groups, num_rows / rows_per_sample], or None: all samples in their order
    row_dots,  # [groups * segments, num_rows]
    num_rows,
    rows_per_sample,
    outputs,
    num_inputs,
    grad_stride,
    x_stride,
    delta_stride,
    OUTPUTS: tl.constexpr,
    SEGMENT: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(1)
    output_tiles = tl.cdiv(outputs, OUTPUTS)
    output_tile = tl.program_id(0) % output_tiles
    o = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    valid = o < outputs
    column = group * outputs + o
    position = tl.program_id(0) // output_tiles * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(position, num_rows - 1)
    if sampled is not None:
        sample = tl.load(sampled + group * (num_rows // rows_per_sample) + row // rows_per_sample)
        row = sample * rows_per_sample + row % rows_per_sample
    row = row.to(tl.int64)
    i = tl.arange(0, INNER)
    x_ptr = x + row[None, :] * x_stride + i[:, None]
    delta_ptr = delta + column.to(tl.int64)[:, None] * delta_stride + i[None, :]
    acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
    # At least one step, and the compiler must see it: otherwise ptxas makes each wgmma wait (C7515).
    for k in range(0, tl.maximum(num_inputs, INNER), INNER):
        inside = i < num_inputs - k
        delta_tile = tl.load(delta_ptr, mask=valid[:, None] & inside[None, :], other=0.0)
        x_tile = tl.load(x_ptr, mask=inside[:, None], other=0.0)
        acc = tl.dot(delta_tile.to(x_tile.dtype), x_tile, acc, input_precision=PRECISION)
        delta_ptr += INNER
        x_ptr += INNER
    if delta_bias is not None:
        acc += tl.load(delta_bias + column, mask=valid, other=0.0).to(tl.float32)[:, None]
    dy = tl.load(grad + row[None, :] * grad_stride + column[:, None], mask=valid[:, None], other=0.0)
    SEGMENTS: tl.constexpr = OUTPUTS // SEGMENT
    dots = tl.sum(tl.reshape(acc * dy.to(tl.float32), (SEGMENTS, SEGMENT, ROWS)), axis=1)
    segment = (group * output_tiles + output_tile) * SEGMENTS + tl.arange(0, SEGMENTS)
    dots_ptr = row_dots + segment.to(tl.int64)[:, None] * num_rows + position[None, :]
    tl.store(dots_ptr, dots, mask=(position < num_rows)[None, :])


def gate_tile(num_rows: int, outputs: int, groups: int, dtype: torch.dtype, delta_dtype: torch.dtype) -> Tile:
    """The tile for `num_rows` rows in each of `groups` groups of `outputs` columns.

    A quarter of a batch often fills less than one round of 132 large tiles: small ones then use more of the GPU
    and waste fewer rows.
    """
    if dtype == torch.float32:
        return Tile(64, rows=64, inner=32, num_warps=4, num_stages=3)
    columns = 128 if outputs > 64 else 64
    if groups * triton.cdiv(outputs, columns) * triton.cdiv(num_rows, 128) < 132:
        return Tile(64, rows=64, inner=64, num_warps=4, num_stages=4)
    if delta_dtype == torch.float32:
        return Tile(columns, rows=128, inner=32, num_warps=columns // 16, num_stages=4)
    return Tile(columns, rows=128, inner=64, num_warps=columns // 16, num_stages=3)


def gate_gradient(
    grad_BSN: Tensor, x_BSK: Tensor, delta_weight_NK: Tensor, delta_bias_N: Tensor | None, sampled_CM: Tensor
) -> Tensor:
    """dg[b, c] = <dy[b, c], x[b] delta_c^T + delta_b_c> times B / M for the M sampled b, 0 elsewhere.

    [B, C] in float32. M = B means all samples, in whatever order they are listed. The delta is rounded to the dtype
    of x; products and sums are float32.
    """
    batch, (components, num_sampled) = len(x_BSK), sampled_CM.shape
    if num_sampled == batch:
        return _dots(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, None, components).T.contiguous()
    dots_CM = _dots(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, sampled_CM, components)
    of_gates_CB = dots_CM.new_zeros(components, batch)
    return of_gates_CB.scatter_(1, sampled_CM.long(), dots_CM * (batch / num_sampled)).T.contiguous()


def _dots(
    grad_BSN: Tensor,
    x_BSK: Tensor,
    delta_NK: Tensor,
    delta_bias_N: Tensor | None,
    sampled_CM: Tensor | None,
    components: int,
) -> Tensor:
    """<dy[b, c], x[b] delta_c^T + delta_b_c> of the samples, [C, M]."""
    batch, rows_per_sample, num_outputs = grad_BSN.shape
    num_sampled = batch if sampled_CM is None else sampled_CM.shape[1]
    grad_RN, x_RK = grad_BSN.flatten(0, 1), x_BSK.flatten(0, 1)
    block, num_rows = num_outputs // components, num_sampled * rows_per_sample
    # With the same rows for all components, one tile may cover several of them: here two of 64 columns.
    groups = 1 if sampled_CM is None and block == 64 and num_outputs % 128 == 0 else components
    outputs = num_outputs // groups
    tile = gate_tile(num_rows, outputs, groups, x_RK.dtype, delta_NK.dtype)
    segment = 64 if groups < components else tile.outputs
    output_tiles = triton.cdiv(outputs, tile.outputs)
    row_dots = x_RK.new_empty(groups * output_tiles * (tile.outputs // segment), num_rows, dtype=torch.float32)
    with launching_on(x_RK):
        _gate_gradient_kernel[(output_tiles * triton.cdiv(num_rows, tile.rows), groups)](
            *(grad_RN, x_RK, delta_NK, delta_bias_N, sampled_CM, row_dots, num_rows, rows_per_sample, outputs),
            *(x_RK.shape[1], grad_RN.stride(0), x_RK.stride(0), delta_NK.stride(0)),
            **_constants(tile, segment, dot_precision(x_RK.dtype)),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return row_dots.view(components, -1, num_sampled, rows_per_sample).sum((1, 3))


def _constants(tile: Tile, segment: int, precision: str) -> dict[str, int | str]:
    return {
        "OUTPUTS": tile.outputs,
        "SEGMENT": segment,
        "ROWS": tile.rows,
        "INNER": tile.inner,
        "PRECISION": precision,
    }


def compiled_forms() -> Iterator[CompiledForm]:
    """Every form that `gate_gradient` can launch, with biases (without, it is the same but for one addition)."""
    cases = [(torch.float32, torch.float32, precision) for precision in ("ieee", "tf32")]
    cases += [(dtype, delta, "ieee") for dtype in (torch.bfloat16, torch.float16) for delta in (dtype, torch.float32)]
    for case, generation in product(cases, CAPABILITIES):
        many, few = 1 << 16, 64
        for num_rows, outputs, segments in ((many, 128, 1), (many, 128, 2), (many, 64, 1), (few, 64, 1)):
            tile = gate_tile(num_rows, outputs, 1, *case[:2])
            if case[0] != torch.float32 or (num_rows, outputs) == (few, 64):
                yield _form(case, tile, tile.outputs // segments, generation)


def _form(case: tuple[torch.dtype, torch.dtype, str], tile: Tile, segment: int, generation: int) -> CompiledForm:
    dtype, delta_dtype, precision = case
    aligned = ("outputs", "num_inputs", "grad_stride", "x_stride", "delta_stride")
    signature = dict.fromkeys(("grad", "x"), f"*{TYPE_NAMES[dtype]}")
    signature |= dict.fromkeys(("delta", "delta_bias"), f"*{TYPE_NAMES[delta_dtype]}")
    signature |= {"sampled": "*i32", "row_dots": "*fp32"}
    signature |= dict.fromkeys(("num_rows", "rows_per_sample", *aligned), "i32")
    types = f"{TYPE_NAMES[dtype]}-{TYPE_NAMES[delta_dtype]}-{precision}"
    return CompiledForm(
        name=f"gate_grad-{types}-{tile.outputs}x{tile.rows}-segment{segment}",
        kernel=_gate_gradient_kernel,
        signature=signature,
        constants=dict(_constants(tile, segment, precision)),
        capability=generation,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=aligned,
        tensor_cores=dtype != torch.float32,
    )
