"""Input gradient of a layer whose components have gates of their own, such as the heads of an attention.

Each row sums over all components, dx[b] = sum over c of dy[b, c] (W_c + g[b, c] delta_c), so no order of the
rows serves them all: a program keeps to one sample and picks the weights component by component. Where a
sample fills its tile badly two dense products cost less, dx = dy W + (g dy) delta. All tensors are contiguous.
"""

import itertools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.rows import mask_of
from adaptive_ft_kernels.triton_path.tiles import (
    CAPABILITIES,
    HALF_DTYPES,
    TYPE_NAMES,
    CompiledForm,
    Dtypes,
    Tile,
    capability_of,
    copied_whole,
    launching_on,
)

MAX_COMPONENTS = 32  # the gates of a sample are the bits of one number
MAX_PADDING = 1.3
_SAMPLES = tl.constexpr(64)  # read at once while looking for a sample's place in the order


# Neither the batch nor the place of a layer's columns in the plan of a step shall compile another form.
@triton.jit(do_not_specialize=["order_CB", "num_frozen_C", "batch", "rows_per_sample", "components"])
def _head_input_grad_kernel(
    grad,  # [batch * rows_per_sample, components * BLOCK]
    weight,  # [components * BLOCK, inputs]
    delta,
    grad_x,  # [batch * rows_per_sample, inputs]
    order_CB,
    num_frozen_C,
    batch,
    rows_per_sample,
    components,
    inputs,
    COMPONENTS: tl.constexpr,
    BLOCK: tl.constexpr,  # known to the compiler: a division in every step would take a tenth of the instructions
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
):
    # One axis for all: the others end at 65,535, which a batch may exceed.
    output_tiles = tl.cdiv(inputs, OUTPUTS)
    row_tiles = tl.cdiv(rows_per_sample, ROWS)
    sample = tl.program_id(0) // output_tiles // row_tiles
    tuned_bits = _tuned_components(order_CB, num_frozen_C, sample, batch, components, COMPONENTS)
    r = tl.program_id(0) // output_tiles % row_tiles * ROWS + tl.arange(0, ROWS)
    row = sample.to(tl.int64) * rows_per_sample + tl.minimum(r, rows_per_sample - 1)
    o = tl.program_id(0) % output_tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    i = tl.arange(0, INNER)
    offsets = o[:, None] + i[None, :] * inputs
    weight_ptr = weight + offsets
    delta_ptr = delta + offsets
    grad_ptr = grad + row[None, :] * (components * BLOCK) + i[:, None]
    acc = tl.zeros((OUTPUTS, ROWS), tl.float32)
    # At least one step, and the compiler must see it: otherwise ptxas makes each wgmma wait (C7515).
    for k in range(0, tl.maximum(components * BLOCK, INNER), INNER):
        tuned = (tuned_bits >> (k // BLOCK)) & 1
        weight_tile = tl.load(weight_ptr)
        delta_tile = tl.load(delta_ptr, mask=mask_of(tuned), other=0.0)
        grad_tile = tl.load(grad_ptr)
        selected = (weight_tile.to(tl.float32) + delta_tile.to(tl.float32)).to(grad_tile.dtype)
        acc = tl.dot(selected, grad_tile, acc)
        weight_ptr += INNER * inputs
        delta_ptr += INNER * inputs
        grad_ptr += INNER
    grad_x_ptr = grad_x + row[None, :] * inputs + o[:, None]
    tl.store(grad_x_ptr, acc.to(grad_x.dtype.element_ty), mask=(r < rows_per_sample)[None, :])


@triton.jit
def _tuned_components(order_CB, num_frozen_C, sample, batch, components, COMPONENTS: tl.constexpr):
    """Bit c is set where the sample stands behind the frozen ones in the order of component c."""
    c = tl.arange(0, COMPONENTS)
    num_frozen = tl.load(num_frozen_C + c, mask=c < components, other=0)
    places = tl.zeros((COMPONENTS,), tl.int32)
    for start in range(0, batch, _SAMPLES):
        place = start + tl.arange(0, _SAMPLES)
        inside = (c < components)[:, None] & (place < batch)[None, :]
        candidate = tl.load(order_CB + c[:, None] * batch + place[None, :], mask=inside, other=-1)
        places += tl.sum(tl.where(candidate == sample, place[None, :], 0), 1)
    return tl.sum(((c < components) & (places >= num_frozen)).to(tl.int32) << c, 0)


def head_tile(rows_per_sample: int, num_inputs: int, block: int, dtypes: Dtypes, capability: int) -> Tile | None:
    """The kernel's tile (m of the K inputs x n rows of a sample, in steps of k outputs), or None
    where two dense products serve better."""
    rows = 64 if triton.cdiv(rows_per_sample, 64) % 2 else 128
    padding = triton.cdiv(rows_per_sample, rows) * rows / rows_per_sample
    if padding > MAX_PADDING or num_inputs % 128 or block % 64 or dtypes.rows == torch.float32:
        return None
    inner = 32 if dtypes.weights == torch.float32 else 64
    if rows == 64 and num_inputs % 256 == 0 and capability >= 90:
        return Tile(256, 64, inner, num_warps=8, num_stages=3)
    return Tile(128, rows, inner, num_warps=rows // 16, num_stages=3)


def head_input_gradient(
    grad_BSN: Tensor, weight_NK: Tensor, delta_weight_NK: Tensor, order_CB: Tensor, num_frozen_C: Tensor
) -> Tensor:
    """dx[b] = sum over c of dy[b, c] (W_c + g[b, c] delta_c): [B, S, K] in grad's dtype, for any C."""
    _, rows_per_sample, num_outputs = grad_BSN.shape
    components = order_CB.shape[0]
    block = num_outputs // components
    dtypes = Dtypes(grad_BSN.dtype, weight_NK.dtype)
    tile = head_tile(rows_per_sample, weight_NK.shape[1], block, dtypes, capability_of(grad_BSN.device))
    if tile is None or components > MAX_COMPONENTS or not copied_whole((grad_BSN, weight_NK, delta_weight_NK)):
        return _two_dense_products(grad_BSN, weight_NK, delta_weight_NK, order_CB, num_frozen_C)
    return _one_sample_per_tile(grad_BSN, weight_NK, delta_weight_NK, order_CB, num_frozen_C, tile)


def _one_sample_per_tile(
    grad_BSN: Tensor, weight_NK: Tensor, delta_weight_NK: Tensor, order_CB: Tensor, num_frozen_C: Tensor, tile: Tile
) -> Tensor:
    batch, rows_per_sample, num_outputs = grad_BSN.shape
    components, num_inputs = order_CB.shape[0], weight_NK.shape[1]
    grad_x_BSK = grad_BSN.new_empty(batch, rows_per_sample, num_inputs)
    num_programs = num_inputs // tile.m * triton.cdiv(rows_per_sample, tile.n) * batch
    with launching_on(grad_BSN):
        _head_input_grad_kernel[(num_programs,)](
            *(grad_BSN, weight_NK, delta_weight_NK, grad_x_BSK, order_CB, num_frozen_C),
            batch=batch,
            rows_per_sample=rows_per_sample,
            components=components,
            inputs=num_inputs,
            COMPONENTS=triton.next_power_of_2(components),
            BLOCK=num_outputs // components,
            OUTPUTS=tile.m,
            ROWS=tile.n,
            INNER=tile.k,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return grad_x_BSK


def _two_dense_products(
    grad_BSN: Tensor, weight_NK: Tensor, delta_weight_NK: Tensor, order_CB: Tensor, num_frozen_C: Tensor
) -> Tensor:
    components, batch = order_CB.shape
    is_frozen_CB = torch.arange(batch, device=order_CB.device) < num_frozen_C[:, None]  # of each place in the order
    frozen_CB = torch.empty_like(is_frozen_CB).scatter_(1, order_CB.long(), is_frozen_CB)
    grad_RN = grad_BSN.flatten(0, 1)
    tuned_RN = grad_BSN.unflatten(2, (components, -1)).masked_fill(frozen_CB.T[:, None, :, None], 0).view_as(grad_RN)
    grad_x_RK = grad_RN @ weight_NK.to(grad_RN.dtype)
    return grad_x_RK.addmm_(tuned_RN, delta_weight_NK.to(grad_RN.dtype)).unflatten(0, (batch, -1))


def compiled_forms() -> Iterator[CompiledForm]:
    """Every form that `head_input_gradient` can launch for 9 to 16 heads of 64 outputs."""
    for capability, dtypes in itertools.product(CAPABILITIES, HALF_DTYPES):
        shapes = itertools.product((64, 128), (128, 256))  # rows per sample, inputs
        tiles = dict.fromkeys(head_tile(*shape, 64, dtypes, capability) for shape in shapes)
        for tile in filter(None, tiles):
            rows, weights = (f"*{TYPE_NAMES[dtype]}" for dtype in dtypes)
            yield CompiledForm(
                name=f"head_input_grad-grad_{rows[1:]}-weights_{weights[1:]}-{tile.m}x{tile.n}x{tile.k}",
                kernel=_head_input_grad_kernel,
                signature={"grad": rows, "weight": weights, "delta": weights, "grad_x": rows}
                | dict.fromkeys(("order_CB", "num_frozen_C"), "*i32")
                | dict.fromkeys(("batch", "rows_per_sample", "components", "inputs"), "i32"),
                constants={"COMPONENTS": 16, "BLOCK": 64} | {"OUTPUTS": tile.m, "ROWS": tile.n, "INNER": tile.k},
                capability=capability,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
                aligned=("inputs",),
                tensor_cores=True,
            )
