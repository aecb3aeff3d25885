"""Gradient of the deltas of a gated linear layer: a product that runs over the rows of the tuned samples only.

The tuned samples stand at the end of each component's order, so their rows follow each other without gaps and
only the last step is padded. As few output tiles would leave a GPU idle, the rows are split over several programs,
whose partial sums are added in a fixed order: no atomics, equal bits in every run. All tensors are contiguous. Shape
suffixes: B samples, S rows per sample, R = B * S rows, C components, N outputs, K inputs.
"""

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.rows import row_addresses
from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    RAGGED,
    TYPE_NAMES,
    CompiledForm,
    Tile,
    capability_of,
    copied_whole,
    dot_precision,
    launching_on,
)

# Two programs fit one of the 132 processors of an H100: about as many tiles as run at once.
PROGRAMS = 260
# A split of fewer rows would spend more time on writing and adding its partial sum than on the product.
ROWS_PER_SPLIT = 512


# Neither the batch nor the place of a layer's columns in the plan of a step shall compile another form.
@triton.jit(do_not_specialize=["order_CB", "num_frozen_C", "batch", "rows_per_sample"])
def _delta_gradient_kernel(
    grad,  # [rows, num_outputs]
    x,  # [rows, num_inputs]
    order_CB,
    num_frozen_C,
    of_weight,  # [splits, num_outputs, num_inputs]
    of_bias,  # [splits, num_outputs]
    batch,
    rows_per_sample,
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
    first = tl.load(num_frozen_C + component) * rows_per_sample
    end = batch * rows_per_sample
    share = tl.cdiv(tl.cdiv(end - first, ROWS), tl.num_programs(2)) * ROWS
    start = first + split * share
    stop = tl.minimum(start + share, end)
    if input_tile == input_tiles:  # one program more per row of tiles sums the columns: the products stay lean
        sums = _column_sums(grad + column, valid, order, start, stop, rows_per_sample, num_outputs, OUTPUTS, ROWS)
        tl.store(of_bias + split * num_outputs + column, sums.to(of_bias.dtype.element_ty), mask=valid)
    else:
        i = input_tile * INPUTS + tl.arange(0, INPUTS)
        position = start + tl.arange(0, ROWS)
        # Stepping these along takes a third of the instructions of dividing in each step.
        place = position // rows_per_sample
        s = position % rows_per_sample
        grad_ptr = grad + column[:, None]
        x_ptr = x + i[None, :]
        acc = tl.zeros((OUTPUTS, INPUTS), tl.float32)
        for r in range(start, stop, ROWS):
            # Rows past the end repeat one of the last tuned sample; a gradient of zero takes them out.
            row = (tl.load(order + tl.minimum(place, batch - 1)) * rows_per_sample + s).to(tl.int64)
            inside = r + tl.arange(0, ROWS) < end
            grad_tile = tl.load(grad_ptr + row[None, :] * num_outputs, mask=valid[:, None] & inside[None, :], other=0.0)
            x_tile = tl.load(x_ptr + row[:, None] * num_inputs, mask=(i < num_inputs)[None, :], other=0.0)
            acc = tl.dot(grad_tile, x_tile, acc, input_precision=PRECISION)
            s += ROWS % rows_per_sample
            carry = s >= rows_per_sample
            place += ROWS // rows_per_sample + carry.to(tl.int32)
            s = tl.where(carry, s - rows_per_sample, s)
        weights = (split * num_outputs + column).to(tl.int64)[:, None] * num_inputs + i[None, :]
        written = valid[:, None] & (i < num_inputs)[None, :]
        tl.store(of_weight + weights, acc.to(of_weight.dtype.element_ty), mask=written)


@triton.jit
def _column_sums(
    columns, valid, order, start, stop, rows_per_sample, num_outputs, OUTPUTS: tl.constexpr, ROWS: tl.constexpr
):
    """Sums of these columns over the rows start:stop in grouped order."""
    sums = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for r in tl.range(start, stop, ROWS, num_stages=4):
        position = r + tl.arange(0, ROWS)
        row = row_addresses(order, tl.minimum(position, stop - 1), rows_per_sample)
        inside = valid[:, None] & (position < stop)[None, :]
        sums += tl.load(columns[:, None] + row[None, :] * num_outputs, mask=inside, other=0.0).to(tl.float32)
    return tl.sum(sums, axis=1)


def delta_tile(outputs: int, dtype: torch.dtype, even: bool, capability: int) -> Tile:
    """The tile for components of `outputs` columns: m outputs x n inputs, in steps of k rows.

    The rows are gathered, and the order they follow is copied a stage ahead of them: 5 stages keep 3 tiles of
    rows in flight on an H100.
    """
    if not even:
        return RAGGED
    if dtype == torch.float32:
        return Tile(64, 64, 32, num_warps=8, num_stages=3)
    if capability >= 90:
        wide, narrow = Tile(128, 128, 64, num_warps=8, num_stages=5), Tile(64, 256, 64, num_warps=8, num_stages=4)
    else:
        wide, narrow = Tile(128, 128, 32, num_warps=8, num_stages=7), Tile(64, 128, 32, num_warps=4, num_stages=5)
    return wide if outputs > 64 else narrow


def num_splits(num_tiles: int, most: int) -> int:
    """Over how many programs the work of each tile is split, from shapes alone."""
    return max(1, min(round(PROGRAMS / num_tiles), most))


def delta_gradient(
    grad_BSN: Tensor, x_BSK: Tensor, order_CB: Tensor, num_frozen_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """d delta_c = sum over the tuned samples b of dy[b, c]^T x[b], and the same of the bias; [N, K] and [N] in `dtype`.

    Zeros where no sample is tuned. Sums in float32. All tensors are contiguous.
    """
    components, batch = order_CB.shape
    rows_per_sample, num_outputs, num_inputs = *grad_BSN.shape[1:], x_BSK.shape[2]
    outputs = num_outputs // components
    even = copied_whole((grad_BSN, x_BSK), outputs, num_inputs)
    tile = delta_tile(outputs, x_BSK.dtype, even, capability_of(x_BSK.device))
    output_tiles, input_tiles = triton.cdiv(outputs, tile.m), triton.cdiv(num_inputs, tile.n)
    splits = num_splits(components * output_tiles * input_tiles, batch * rows_per_sample // ROWS_PER_SPLIT)
    sum_dtype = dtype if splits == 1 else torch.float32
    of_weight = x_BSK.new_empty(splits, num_outputs, num_inputs, dtype=sum_dtype)
    of_bias = x_BSK.new_empty(splits, num_outputs, dtype=sum_dtype)
    with launching_on(x_BSK):
        _delta_gradient_kernel[(output_tiles * (input_tiles + 1), components, splits)](
            *(grad_BSN, x_BSK, order_CB, num_frozen_C, of_weight, of_bias),
            batch=batch,
            rows_per_sample=rows_per_sample,
            outputs=outputs,
            num_outputs=num_outputs,
            num_inputs=num_inputs,
            **constants_of(tile, dot_precision(x_BSK.dtype)),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return added(of_weight, dtype), added(of_bias, dtype)


def added(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """Partial sums [splits, ...] added in their order, rounded once."""
    return partial[0] if len(partial) == 1 else partial.sum(0).to(dtype)


def constants_of(tile: Tile, precision: str) -> dict[str, int | str]:
    """The constexpr arguments of a kernel that sums over rows."""
    return {"OUTPUTS": tile.m, "INPUTS": tile.n, "ROWS": tile.k, "PRECISION": precision}


def compiled_forms() -> Iterator[CompiledForm]:
    """Every form that `delta_gradient` can launch."""
    cases = [(torch.float32, "fp32", precision) for precision in ("ieee", "tf32")]
    cases += [(half, out, "ieee") for half in (torch.bfloat16, torch.float16) for out in ("fp32", TYPE_NAMES[half])]
    for (dtype, out, precision), capability in product(cases, CAPABILITIES):
        yield _form(dtype, out, RAGGED, precision, capability)
        for tile in dict.fromkeys(delta_tile(outputs, dtype, True, capability) for outputs in (64, 128)):
            yield _form(dtype, out, tile, precision, capability)


def _form(dtype: torch.dtype, out: str, tile: Tile, precision: str, capability: int) -> CompiledForm:
    sizes = ("outputs", "num_outputs", "num_inputs")
    signature = dict.fromkeys(("grad", "x"), f"*{TYPE_NAMES[dtype]}")
    signature |= dict.fromkeys(("order_CB", "num_frozen_C"), "*i32")
    signature |= dict.fromkeys(("of_weight", "of_bias"), f"*{out}")
    signature |= dict.fromkeys(("batch", "rows_per_sample", *sizes), "i32")
    return CompiledForm(
        name=f"delta_grad-{TYPE_NAMES[dtype]}-{out}-{tile.m}x{tile.n}x{tile.k}-{precision}",
        kernel=_delta_gradient_kernel,
        signature=signature,
        constants=dict(constants_of(tile, precision)),
        capability=capability,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=() if tile == RAGGED else sizes,
        tensor_cores=tile != RAGGED and dtype != torch.float32,
    )
