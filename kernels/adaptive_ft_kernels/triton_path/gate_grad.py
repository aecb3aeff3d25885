"""Gradient of the gates of a gated linear layer: x delta^T, dotted with dy inside the kernel, never in memory.

The epilogue of each tile sums along its output columns and leaves one number per row and segment of columns; the
sum over a sample's rows and segments follows in a fixed order. All tensors are contiguous. Shape suffixes: B samples,
S rows per sample, C components, N outputs, K inputs, M samples whose gate gradient is evaluated.
"""

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    FULL,
    HALF_DTYPES,
    RAGGED,
    TYPE_NAMES,
    CompiledForm,
    Dtypes,
    Tile,
    copied_whole,
    dot_precision,
    launching_on,
)


# Neither the batch nor the place of a layer's columns in the plan of a step shall compile another form.
@triton.jit(do_not_specialize=["delta_bias", "sampled", "num_rows", "rows_per_sample"])
def _gate_gradient_kernel(
    grad,  # [all rows, parts * outputs]
    x,  # [all rows, num_inputs]
    delta,  # [parts * outputs, num_inputs]
    delta_bias,  # [parts * outputs] or None
    sampled,  # [parts, num_rows / rows_per_sample], or None: all samples in their order
    row_dots,  # [parts * segments, num_rows]
    num_rows,
    rows_per_sample,
    outputs,  # of one part
    num_outputs,  # of all parts
    num_inputs,
    OUTPUTS: tl.constexpr,
    SEGMENT: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    part = tl.program_id(1)
    output_tiles = tl.cdiv(outputs, OUTPUTS)
    output_tile = tl.program_id(0) % output_tiles
    o = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    valid = o < outputs
    column = part * outputs + o
    position = tl.program_id(0) // output_tiles * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(position, num_rows - 1)
    if sampled is not None:
        sample = tl.load(sampled + part * (num_rows // rows_per_sample) + row // rows_per_sample)
        row = sample * rows_per_sample + row % rows_per_sample
    row = row.to(tl.int64)
    i = tl.arange(0, INNER)
    x_ptr = x + row[None, :] * num_inputs + i[:, None]
    delta_ptr = delta + column.to(tl.int64)[:, None] * num_inputs + i[None, :]
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
    dy = tl.load(grad + row[None, :] * num_outputs + column[:, None], mask=valid[:, None], other=0.0)
    SEGMENTS: tl.constexpr = OUTPUTS // SEGMENT
    dots = tl.sum(tl.reshape(acc * dy.to(tl.float32), (SEGMENTS, SEGMENT, ROWS)), axis=1)
    segment = (part * output_tiles + output_tile) * SEGMENTS + tl.arange(0, SEGMENTS)
    dots_ptr = row_dots + segment.to(tl.int64)[:, None] * num_rows + position[None, :]
    tl.store(dots_ptr, dots, mask=(position < num_rows)[None, :])


def gate_tile(num_rows: int, outputs: int, parts: int, dtypes: Dtypes, even: bool) -> Tile:
    """The tile for `parts` column ranges of `outputs` (m) with `num_rows` rows (n) each, in steps along the inputs (k).

    A quarter of a batch often fills less than one round of 132 large tiles: small ones then use more of the GPU
    and waste fewer rows.
    """
    if not even:
        return RAGGED
    if dtypes == FULL:
        return Tile(64, 64, 32, num_warps=8, num_stages=3)
    columns = 128 if outputs > 64 else 64
    if parts * triton.cdiv(outputs, columns) * triton.cdiv(num_rows, 128) < 132:
        return Tile(64, 64, 64, num_warps=4, num_stages=4)
    if dtypes.weights == torch.float32:
        return Tile(columns, 128, 32, num_warps=columns // 16, num_stages=4)
    return Tile(columns, 128, 64, num_warps=columns // 16, num_stages=3)


def gate_gradient(
    grad_BSN: Tensor, x_BSK: Tensor, delta_weight_NK: Tensor, delta_bias_N: Tensor | None, sampled_CM: Tensor
) -> Tensor:
    """dg[b, c] = <dy[b, c], x[b] delta_c^T + delta_b_c> times B / M for the M sampled b, 0 elsewhere.

    [B, C] in float32. M = B means all samples, in whatever order they are listed. The delta is rounded to the dtype
    of x; products and sums are float32. All tensors are contiguous.
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
    num_inputs = x_BSK.shape[2]
    num_sampled = batch if sampled_CM is None else sampled_CM.shape[1]
    block, num_rows = num_outputs // components, num_sampled * rows_per_sample
    even = copied_whole((grad_BSN, x_BSK, delta_NK), block, num_inputs)
    # With the same rows for all components, one tile may cover several of them: here two of 64 columns.
    parts = 1 if even and sampled_CM is None and block == 64 and num_outputs % 128 == 0 else components
    outputs = num_outputs // parts
    tile = gate_tile(num_rows, outputs, parts, Dtypes(x_BSK.dtype, delta_NK.dtype), even)
    segment = 64 if parts < components else tile.m
    output_tiles = triton.cdiv(outputs, tile.m)
    row_dots = x_BSK.new_empty(parts * output_tiles * (tile.m // segment), num_rows, dtype=torch.float32)
    with launching_on(x_BSK):
        _gate_gradient_kernel[(output_tiles * triton.cdiv(num_rows, tile.n), parts)](
            *(grad_BSN, x_BSK, delta_NK, delta_bias_N, sampled_CM, row_dots),
            num_rows=num_rows,
            rows_per_sample=rows_per_sample,
            outputs=outputs,
            num_outputs=num_outputs,
            num_inputs=num_inputs,
            **_constants(tile, segment, dot_precision(x_BSK.dtype)),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return row_dots.view(components, -1, num_sampled, rows_per_sample).sum((1, 3))


def _constants(tile: Tile, segment: int, precision: str) -> dict[str, int | str]:
    return {"OUTPUTS": tile.m, "SEGMENT": segment, "ROWS": tile.n, "INNER": tile.k, "PRECISION": precision}


def compiled_forms() -> Iterator[CompiledForm]:
    """Every form that `gate_gradient` can launch, with biases (without, it is the same but for one addition)."""
    cases = [(FULL, "ieee"), (FULL, "tf32"), *((dtypes, "ieee") for dtypes in HALF_DTYPES)]
    for (dtypes, precision), capability, all_samples in product(cases, CAPABILITIES, (False, True)):
        # One (rows, outputs) for each tile of `gate_tile`.
        shapes = ((64, 64), (1 << 16, 64), (1 << 16, 128))
        for tile in dict.fromkeys(gate_tile(*shape, 1, dtypes, True) for shape in shapes):
            yield _form(dtypes, tile, tile.m, precision, capability, all_samples)
            if all_samples and tile.m == 128:  # two components in one tile
                yield _form(dtypes, tile, 64, precision, capability, all_samples)
        yield _form(dtypes, RAGGED, RAGGED.m, precision, capability, all_samples)


def _form(dtypes: Dtypes, tile: Tile, segment: int, precision: str, capability: int, all_samples: bool) -> CompiledForm:
    sizes = ("outputs", "num_outputs", "num_inputs")
    signature = dict.fromkeys(("grad", "x"), f"*{TYPE_NAMES[dtypes.rows]}")
    signature |= dict.fromkeys(("delta", "delta_bias"), f"*{TYPE_NAMES[dtypes.weights]}")
    signature |= {"row_dots": "*fp32"} | dict.fromkeys(("num_rows", "rows_per_sample", *sizes), "i32")
    types = f"{TYPE_NAMES[dtypes.rows]}-{TYPE_NAMES[dtypes.weights]}-{precision}"
    samples = "all" if all_samples else "sampled"
    return CompiledForm(
        name=f"gate_grad-{types}-{tile.m}x{tile.n}x{tile.k}-segment{segment}-{samples}",
        kernel=_gate_gradient_kernel,
        signature=signature if all_samples else signature | {"sampled": "*i32"},
        constants=_constants(tile, segment, precision) | ({"sampled": None} if all_samples else {}),
        capability=capability,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=() if tile == RAGGED else sizes,
        tensor_cores=tile != RAGGED and dtypes != FULL,
    )
