"""The gated mix of two activations as Triton kernels: each tensor is read and written once.

All tensors are contiguous. Shape suffixes: B samples, S rows per sample, C components, N features.
"""

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.tiles import CAPABILITIES, CompiledForm, launching_on

TILE = 2048  # numbers per tile, of one sample and one component: 8 in each of 256 threads
NUM_WARPS = 8
NARROW, WIDE = 64, 256  # columns of a tile: one attention head, or a part of a wide component


def forward(tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor) -> Tensor:
    """frozen + g (tuned - frozen), [B, S, N] in the dtype of the inputs."""
    y_BSN = torch.empty_like(tuned_BSN)
    num_tiles, sizes = _cut(tuned_BSN, gates_BC)
    with launching_on(tuned_BSN):
        _forward[(gates_BC.numel() * num_tiles,)](
            *(tuned_BSN, frozen_BSN, gates_BC, y_BSN), num_tiles=num_tiles, **sizes, num_warps=NUM_WARPS
        )
    return y_BSN


def backward(
    grad_BSN: Tensor, tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tuned, of frozen, and of the gates [B, C] in float32."""
    of_tuned_BSN, of_frozen_BSN = torch.empty_like(tuned_BSN), torch.empty_like(frozen_BSN)
    num_tiles, sizes = _cut(tuned_BSN, gates_BC)
    of_gates = gates_BC.new_empty(*gates_BC.shape, num_tiles, dtype=torch.float32)  # one sum per tile
    with launching_on(tuned_BSN):
        _backward[(of_gates.numel(),)](
            *(grad_BSN, tuned_BSN, frozen_BSN, gates_BC, of_tuned_BSN, of_frozen_BSN, of_gates),
            num_tiles=num_tiles,
            **sizes,
            num_warps=NUM_WARPS,
        )
    return of_tuned_BSN, of_frozen_BSN, of_gates.sum(2)


def _cut(x_BSN: Tensor, gates_BC: Tensor) -> tuple[int, dict[str, int]]:
    """Tiles per sample and component, and the sizes that the kernels ask for."""
    _, rows_per_sample, num_features = x_BSN.shape
    num_components = gates_BC.shape[1]
    block = num_features // num_components
    columns = NARROW if block <= NARROW else WIDE
    rows = TILE // columns
    num_tiles = triton.cdiv(rows_per_sample, rows) * triton.cdiv(block, columns)
    sizes = {"rows_per_sample": rows_per_sample, "num_components": num_components, "block": block}
    return num_tiles, sizes | {"ROWS": rows, "COLUMNS": columns}


# Neither the batch nor the column that a layer has in the gates of a step shall compile another form.
@triton.jit(do_not_specialize=["gates", "num_tiles", "rows_per_sample", "num_components"])
def _forward(
    tuned, frozen, gates, y, num_tiles, rows_per_sample, num_components, block,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    gated, place, inside = _tile(num_tiles, rows_per_sample, num_components, block, ROWS, COLUMNS)
    gate = tl.load(gates + gated).to(tl.float32)
    t = tl.load(tuned + place, mask=inside).to(tl.float32)
    f = tl.load(frozen + place, mask=inside).to(tl.float32)
    mixed = tl.where(gate < 0.5, f + gate * (t - f), t - (1 - gate) * (t - f))
    # Gates of 0 and 1 choose: not even an infinity of the other end may show.
    mixed = tl.where(gate == 0, f, tl.where(gate == 1, t, mixed))
    tl.store(y + place, mixed.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["gates", "num_tiles", "rows_per_sample", "num_components"])
def _backward(
    grad, tuned, frozen, gates, of_tuned, of_frozen, of_gates,
    num_tiles, rows_per_sample, num_components, block,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    gated, place, inside = _tile(num_tiles, rows_per_sample, num_components, block, ROWS, COLUMNS)
    gate = tl.load(gates + gated).to(tl.float32)
    slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(tuned + place, mask=inside, other=0.0).to(tl.float32)
    f = tl.load(frozen + place, mask=inside, other=0.0).to(tl.float32)
    # An end that was not chosen gets 0, whatever the slope: 0 times an infinity would be not-a-number.
    of_t = tl.where(gate == 0, 0.0, gate * slope)
    of_f = tl.where(gate == 1, 0.0, (1 - gate) * slope)
    tl.store(of_tuned + place, of_t.to(of_tuned.dtype.element_ty), mask=inside)
    tl.store(of_frozen + place, of_f.to(of_frozen.dtype.element_ty), mask=inside)
    of_gate = tl.sum(tl.sum(slope * (t - f), 1), 0)
    tl.store(of_gates + tl.program_id(0), of_gate)


@triton.jit
def _tile(num_tiles, rows_per_sample, num_components, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(number of the gate, places of its numbers in memory, which of them exist) of this program.

    One axis of the grid for all: the others end at 65,535.
    """
    gated = tl.program_id(0) // num_tiles
    tile = tl.program_id(0) % num_tiles
    sample = gated // num_components
    component = gated % num_components
    column_tiles = tl.cdiv(block, COLUMNS)
    row = tile // column_tiles * ROWS + tl.arange(0, ROWS)
    column = tile % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    start = (sample.to(tl.int64) * rows_per_sample * num_components + component) * block
    place = start + row.to(tl.int64)[:, None] * (num_components * block) + column[None, :]
    return gated, place, (row < rows_per_sample)[:, None] & (column < block)[None, :]


def compiled_forms() -> Iterator[CompiledForm]:
    """Both tile widths in every dtype, and blocks that are no multiple of 16."""
    sizes = ("num_tiles", "rows_per_sample", "num_components", "block")
    for capability in CAPABILITIES:
        for kernel, tensors in (
            (_forward, ("tuned", "frozen", "y")),
            (_backward, ("grad", "tuned", "frozen", "of_tuned", "of_frozen", "of_gates")),
        ):
            dtypes = ("fp32", "bf16", "fp16")
            for dtype, columns, even in product(dtypes, (NARROW, WIDE), (True, False)):
                types = dict.fromkeys(tensors, f"*{dtype}") | dict.fromkeys(sizes, "i32") | {"gates": "*fp32"}
                yield CompiledForm(
                    name=f"mix{kernel.__name__}-{dtype}-{columns}{'' if even else '-ragged'}",
                    kernel=kernel,
                    signature=types | ({"of_gates": "*fp32"} if "of_gates" in types else {}),
                    constants={"ROWS": TILE // columns, "COLUMNS": columns},
                    capability=capability,
                    num_warps=NUM_WARPS,
                    num_stages=3,
                    aligned=("block",) if even else (),
                    tensor_cores=False,
                )
