"""How kernels are cut: the sizes of a tile, the compute capabilities the tables know, and what to compile offline.

Every kernel module has a pure function that picks its tile and a `compiled_forms()` that lists each form this
function can lead to, so that a machine without a GPU can still compile them all and count registers.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

# Names of the dtypes in Triton's signatures.
TYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
CAPABILITIES = (80, 90)
SHARED_MEMORY = {80: 166_912, 90: 232_448}  # bytes that one program may use on an A100 and on an H100


class Dtypes(NamedTuple):
    """Of the rows (x, gradients) and of the weights, which may be float32 where the rows have 16 bits."""

    rows: torch.dtype
    weights: torch.dtype


HALF_DTYPES = tuple(
    Dtypes(rows, weights) for rows in (torch.bfloat16, torch.float16) for weights in (rows, torch.float32)
)
FULL = Dtypes(torch.float32, torch.float32)


@dataclass(frozen=True)
class Tile:
    """One program accumulates m x n numbers of a product, in steps of k along the axis that is summed over."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


# For operands whose numbers are copied one by one, each with an address and a mask of its own: larger ones spill.
RAGGED = Tile(32, 32, 32, num_warps=4, num_stages=1)


@dataclass(frozen=True, eq=False)
class CompiledForm:
    """One form of a kernel that a launch may ask for.

    `signature`: Triton type of each run-time argument, such as "*bf16" or "i32". `constants`: the constexpr
    arguments. `aligned`: integers taken to be multiples of 16 (pointers always are). `tensor_cores`: whether
    16-bit matrix instructions and asynchronous copies are expected.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    capability: int
    num_warps: int
    num_stages: int
    aligned: tuple[str, ...]
    tensor_cores: bool


def capability_of(device: torch.device) -> int:
    """The capability whose table fits a device: 90 where wgmma or newer is there, else 80 (interpreter too)."""
    if device.type != "cuda":
        return 80
    major, _ = torch.cuda.get_device_capability(device)
    return 90 if major in (9, 10) else 80


def dot_precision(dtype: torch.dtype) -> str:
    """How products of float32 run: in full ("ieee"), or in "tf32" where torch is allowed to do that too."""
    matmul = torch.backends.cuda.matmul
    # Newer versions of torch refuse to tell allow_tf32 once anybody has set fp32_precision.
    allowed = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if dtype == torch.float32 and allowed else "ieee"


def copied_whole(tensors: Iterable[torch.Tensor], *sizes: int) -> bool:
    """Whether contiguous tensors of these row lengths can be copied 16 bytes at a time, as Triton will find too."""
    return all(size % 16 == 0 for size in sizes) and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def launching_on(tensor: torch.Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be the one that holds the tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
