"""One matrix product whose rows choose, per component, between weight and weight + delta.

Forward for any number of components, and the input gradient of layers with one gate per sample. The weights
are operand A of the tensor cores: from there they may come straight out of registers, so that the sum of
weight and delta never returns to shared memory. The delta is loaded under a mask that is off for frozen
tiles; masked copies move no bytes, and the loop stays free of branches. All tensors are contiguous.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.rows import group_of_row_tile, mask_of, row_addresses
from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    FULL,
    HALF_DTYPES,
    RAGGED,
    TYPE_NAMES,
    CompiledForm,
    Dtypes,
    Tile,
    capability_of,
    copied_whole,
    dot_precision,
    launching_on,
)

# Output tiles that run at the same time as neighbours, so that they find the same rows in the L2 cache.
_BAND = tl.constexpr(8)


# Neither the batch nor the place of a layer's columns in the plan of a step shall compile another form.
@triton.jit(do_not_specialize=["bias", "delta_bias", "order_CB", "num_frozen_C", "batch", "rows_per_sample"])
def _product_kernel(
    x,  # [rows, inner]
    weight,  # [components * outputs, inner], or its transpose [inner, components * outputs]
    delta,
    bias,  # [components * outputs] or None
    delta_bias,
    y,  # [rows, components * outputs]
    order_CB,
    num_frozen_C,
    batch,
    rows_per_sample,
    outputs,
    width,  # components * outputs
    inner,
    TRANSPOSED: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
):
    component = tl.program_id(1)
    output_tile, row_tile = _in_bands(tl.cdiv(outputs, OUTPUTS), tl.cdiv(batch * rows_per_sample, ROWS) + 1)
    num_frozen = tl.load(num_frozen_C + component)
    tuned, start, stop = group_of_row_tile(num_frozen, row_tile, batch, rows_per_sample, ROWS)
    if start < stop:
        r = start + tl.arange(0, ROWS)
        row = row_addresses(order_CB + component * batch, tl.minimum(r, stop - 1), rows_per_sample)
        o = tl.arange(0, OUTPUTS)
        i = tl.arange(0, INNER)
        first = component * outputs + output_tile * OUTPUTS
        valid = o < outputs - output_tile * OUTPUTS
        with_delta = mask_of(tuned)
        if TRANSPOSED:
            offsets = first.to(tl.int64) + o[:, None] + i[None, :] * width
            step = INNER * width
        else:
            offsets = first.to(tl.int64) * inner + o[:, None] * inner + i[None, :]
            step = INNER
        weight_ptr = weight + offsets
        delta_ptr = delta + offsets
        x_ptr = x + row[None, :] * inner + i[:, None]
        acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
        # At least one step, and the compiler must see it: otherwise ptxas makes each wgmma wait (C7515).
        for k in range(0, tl.maximum(inner, INNER), INNER):
            if EVEN:
                weight_tile = tl.load(weight_ptr)
                delta_tile = tl.load(delta_ptr, mask=with_delta, other=0.0)
                x_tile = tl.load(x_ptr)
            else:
                inside = i < inner - k
                weight_tile = tl.load(weight_ptr, mask=valid[:, None] & inside[None, :], other=0.0)
                delta_tile = tl.load(delta_ptr, mask=with_delta & valid[:, None] & inside[None, :], other=0.0)
                x_tile = tl.load(x_ptr, mask=inside[:, None], other=0.0)
            selected = (weight_tile.to(tl.float32) + delta_tile.to(tl.float32)).to(x_tile.dtype)
            acc = tl.dot(selected, x_tile, acc, input_precision=PRECISION)
            weight_ptr += step
            delta_ptr += step
            x_ptr += INNER
        if bias is not None:
            column = (first + o)[:, None]
            acc += tl.load(bias + column, mask=valid[:, None], other=0.0).to(tl.float32)
            acc += tl.load(delta_bias + column, mask=with_delta & valid[:, None], other=0.0).to(tl.float32)
        y_ptr = y + row[None, :] * width + (first + o)[:, None]
        written = (r < stop)[None, :] if EVEN else (r < stop)[None, :] & valid[:, None]
        tl.store(y_ptr, acc.to(y.dtype.element_ty), mask=written)


@triton.jit
def _in_bands(output_tiles, row_tiles):
    """(output tile, row tile) of this program: bands of 8 output tiles, each walked row tile by row tile."""
    program = tl.program_id(0)
    band_size = _BAND * row_tiles
    first = (program // band_size) * _BAND
    band_width = tl.minimum(output_tiles - first, _BAND)
    within = program % band_size
    return first + within % band_width, within // band_width


def product_tile(num_rows: int, outputs: int, components: int, dtypes: Dtypes, even: bool, capability: int) -> Tile:
    """The tile for `num_rows` (n) x `outputs` (m) per component, in steps along the inputs (k).

    Larger tiles read less from the L2 cache per product (128 x 256: 85 flop per byte frozen, 64 tuned; 64 x
    128: 43 and 32), but must be many enough to fill 132 processors twice, or half of the last round idles.
    Tiles of few rows waste less where the two groups end: at most one tile, so 10 % at 1280 rows of 128.
    """
    if not even:
        return RAGGED
    if dtypes.rows == torch.float32:
        return Tile(64, 64, 32, num_warps=4, num_stages=2)
    if num_rows < 1280:
        return Tile(64, 64, 64, num_warps=4, num_stages=3)
    wide = components * outputs // 128 if outputs % 128 == 0 else 0
    wide_weights = dtypes.weights == torch.float32
    if capability >= 90 and wide * triton.cdiv(num_rows, 256) >= 264:
        return Tile(128, 256, 32, 8, 4) if wide_weights else Tile(128, 256, 64, 8, 3)
    if wide * triton.cdiv(num_rows, 128) >= 264:
        return Tile(128, 128, 32 if wide_weights and capability < 90 else 64, num_warps=8, num_stages=3)
    return Tile(64, 128, 32 if wide_weights and capability < 90 else 64, num_warps=4, num_stages=3)


@dataclass(frozen=True)
class Selectable:
    """What rows choose between: weight and weight + delta, both [C * outputs, inner] or `transposed`; contiguous."""

    weight: Tensor
    delta_weight: Tensor
    bias: Tensor | None = None
    delta_bias: Tensor | None = None
    transposed: bool = False


def grouped_product(x_RI: Tensor, chosen: Selectable, order_CB: Tensor, num_frozen_C: Tensor) -> Tensor:
    """y[r, c] = x[r] W_c^T + b_c, tuned rows with W + delta and b + delta_b: [R, C * outputs] in x's dtype.

    x is contiguous.
    """
    components, batch = order_CB.shape
    num_rows, inner = x_RI.shape
    width = chosen.weight.shape[1 if chosen.transposed else 0]
    outputs = width // components
    even = outputs % 64 == inner % 64 == 0 and copied_whole((x_RI, chosen.weight, chosen.delta_weight))
    dtypes = Dtypes(x_RI.dtype, chosen.weight.dtype)
    tile = product_tile(num_rows, outputs, components, dtypes, even, capability_of(x_RI.device))
    y_RO = x_RI.new_empty(num_rows, width)
    grid = (triton.cdiv(outputs, tile.m) * (triton.cdiv(num_rows, tile.n) + 1), components)
    with launching_on(x_RI):
        _product_kernel[grid](
            *(x_RI, chosen.weight, chosen.delta_weight, chosen.bias, chosen.delta_bias, y_RO, order_CB, num_frozen_C),
            batch=batch,
            rows_per_sample=num_rows // batch,
            outputs=outputs,
            width=width,
            inner=inner,
            **_constants(tile, chosen.transposed, even, dot_precision(x_RI.dtype)),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return y_RO


def _constants(tile: Tile, transposed: bool, even: bool, precision: str) -> dict[str, Any]:
    sizes = {"OUTPUTS": tile.m, "ROWS": tile.n, "INNER": tile.k}
    return {"TRANSPOSED": transposed, "EVEN": even, "PRECISION": precision, **sizes}


def compiled_forms() -> Iterator[CompiledForm]:
    """Every form that `grouped_product` can launch; a missing bias only takes instructions away."""
    # One (rows, outputs, components) for each tile of `product_tile`.
    shapes = ((64, 64, 1), (1280, 64, 12), (2304, 3072, 1), (9216, 3072, 1))
    for capability, transposed in itertools.product(CAPABILITIES, (False, True)):
        for dtypes, precision in (*((half, "ieee") for half in HALF_DTYPES), (FULL, "ieee"), (FULL, "tf32")):
            yield _form(dtypes, RAGGED, capability, _constants(RAGGED, transposed, False, precision))
            for tile in dict.fromkeys(product_tile(*shape, dtypes, True, capability) for shape in shapes):
                yield _form(dtypes, tile, capability, _constants(tile, transposed, True, precision))


def _form(dtypes: Dtypes, tile: Tile, capability: int, constants: dict[str, Any]) -> CompiledForm:
    transposed, even, precision = constants["TRANSPOSED"], constants["EVEN"], constants["PRECISION"]
    rows, weights = (f"*{TYPE_NAMES[dtype]}" for dtype in dtypes)
    biases: dict[str, Any] = dict.fromkeys(("bias", "delta_bias"), None if transposed else weights)
    sizes = ("outputs", "width", "inner")
    signature = {"x": rows, "y": rows, "weight": weights, "delta": weights, "order_CB": "*i32", "num_frozen_C": "*i32"}
    signature |= dict.fromkeys(("batch", "rows_per_sample", *sizes), "i32")
    return CompiledForm(
        name=f"product-{'input_gradient' if transposed else 'forward'}-x_{rows[1:]}-weights_{weights[1:]}"
        f"-{tile.m}x{tile.n}x{tile.k}-{precision if even else precision + '-ragged'}",
        kernel=_product_kernel,
        signature=signature if transposed else signature | biases,
        constants=constants | biases if transposed else constants,
        capability=capability,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        aligned=sizes if even else (),
        tensor_cores=even and dtypes.rows != torch.float32,
    )
