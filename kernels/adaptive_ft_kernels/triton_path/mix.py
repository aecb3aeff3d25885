"""The gated mix of two activations as Triton kernels: each tensor is read and written once.

Shape suffixes: B samples, S rows per sample, C components, N features.
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
    grid, sizes, columns = _launch(tuned_BSN, gates_BC)
    with launching_on(tuned_BSN):
        _forward[grid](
            *(tuned_BSN, frozen_BSN, gates_BC, y_BSN, *sizes),
            ROWS=TILE // columns,
            COLUMNS=columns,
            num_warps=NUM_WARPS,
        )
    return y_BSN


def backward(
    grad_BSN: Tensor, tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tuned, of frozen, and of the gates [B, C] in float32."""
    of_tuned_BSN, of_frozen_BSN = torch.empty_like(tuned_BSN), torch.empty_like(frozen_BSN)
    grid, sizes, columns = _launch(tuned_BSN, gates_BC)
    of_gates = gates_BC.new_empty(*gates_BC.shape, grid[1], dtype=torch.float32)  # one sum per tile
    with launching_on(tuned_BSN):
        _backward[grid](
            *(grad_BSN, tuned_BSN, frozen_BSN, gates_BC, of_tuned_BSN, of_frozen_BSN, of_gates, *sizes),
            ROWS=TILE // columns,
            COLUMNS=columns,
            num_warps=NUM_WARPS,
        )
    return of_tuned_BSN, of_frozen_BSN, of_gates.sum(2)


def _launch(x_BSN: Tensor, gates_BC: Tensor) -> tuple[tuple[int, int], tuple[int, int, int], int]:
    """The grid, the sizes that the kernels ask for, and the columns of a tile."""
    batch, num_rows, num_features = x_BSN.shape
    num_components = gates_BC.shape[1]
    block = num_features // num_components
    columns = NARROW if block <= NARROW else WIDE
    num_tiles = triton.cdiv(num_rows, TILE // columns) * triton.cdiv(block, columns)
    return (batch * num_components, num_tiles), (num_rows, num_components, block), columns


@triton.jit
def _forward(
    tuned, frozen, gates, y, num_rows, num_components, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    place, inside = _tile(num_rows, num_components, block, ROWS, COLUMNS)
    gate = tl.load(gates + tl.program_id(0)).to(tl.float32)
    t = tl.load(tuned + place, mask=inside).to(tl.float32)
    f = tl.load(frozen + place, mask=inside).to(tl.float32)
    # From the nearer end, so that gates of 0 and 1 give that end exactly.
    mixed = tl.where(gate < 0.5, f + gate * (t - f), t - (1 - gate) * (t - f))
    tl.store(y + place, mixed.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad, tuned, frozen, gates, of_tuned, of_frozen, of_gates, num_rows, num_components, block,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    place, inside = _tile(num_rows, num_components, block, ROWS, COLUMNS)
    gate = tl.load(gates + tl.program_id(0)).to(tl.float32)
    slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(tuned + place, mask=inside, other=0.0).to(tl.float32)
    f = tl.load(frozen + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(of_tuned + place, (gate * slope).to(of_tuned.dtype.element_ty), mask=inside)
    tl.store(of_frozen + place, ((1 - gate) * slope).to(of_frozen.dtype.element_ty), mask=inside)
    of_gate = tl.sum(tl.sum(slope * (t - f), 1), 0)
    tl.store(of_gates + tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1), of_gate)


@triton.jit
def _tile(num_rows, num_components, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where the numbers of this program lie: tile `program_id(1)` of sample and component `program_id(0)`."""
    sample = tl.program_id(0) // num_components
    component = tl.program_id(0) % num_components
    column_tiles = tl.cdiv(block, COLUMNS)
    row = tl.program_id(1) // column_tiles * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    start = (sample.to(tl.int64) * num_rows * num_components + component) * block
    place = start + row.to(tl.int64)[:, None] * (num_components * block) + column[None, :]
    return place, (row < num_rows)[:, None] & (column < block)[None, :]


def compiled_forms() -> Iterator[CompiledForm]:
    """Both tile widths in every dtype."""
    sizes = ("num_rows", "num_components", "block")
    for capability in CAPABILITIES:
        for kernel, tensors in (
            (_forward, ("tuned", "frozen", "y")),
            (_backward, ("grad", "tuned", "frozen", "of_tuned", "of_frozen", "of_gates")),
        ):
            for dtype, columns in product(("fp32", "bf16", "fp16"), (NARROW, WIDE)):
                types = dict.fromkeys(tensors, f"*{dtype}") | dict.fromkeys(sizes, "i32") | {"gates": "*fp32"}
                yield CompiledForm(
                    name=f"mix{kernel.__name__}-{dtype}-{columns}",
                    kernel=kernel,
                    signature=types | ({"of_gates": "*fp32"} if "of_gates" in types else {}),
                    constants={"ROWS": TILE // columns, "COLUMNS": columns},
                    capability=capability,
                    num_warps=NUM_WARPS,
                    num_stages=3,
                    aligned=("block",),
                    tensor_cores=False,
                )
