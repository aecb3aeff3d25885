"""Decides once which code computes the gated operations on a device, and says it aloud.

triton: fused kernels, on CUDA devices. torch: PyTorch's own operations on samples grouped by gate, the way of CPUs.
reference: both branches in full, mixed by their gates; to compare with. The environment variable
ADAPTIVE_FT_KERNELS (auto, triton, torch or reference) demands one, `use_path` too and with more weight; auto takes
the fastest that runs.
"""

import logging
import os
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, cast, get_args

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PathName = Literal["triton", "torch", "reference"]
Demand = Literal["auto", "triton", "torch", "reference"]
VARIABLE = "ADAPTIVE_FT_KERNELS"


@dataclass(frozen=True)
class Code:
    """The modules behind the operators: partition(), and forward() and gradients of linear, norm and mix."""

    partition: ModuleType
    linear: ModuleType
    norm: ModuleType
    mix: ModuleType


_demanded: list[Demand] = []
_chosen: dict[str, PathName] = {}


def use_path(demand: Demand) -> None:
    """Demand a path for every later operation; auto leaves the choice to the environment variable again.

    Raises ValueError for a word that names none.
    """
    _demanded[:] = [] if _checked(demand, "use_path") == "auto" else [demand]
    _chosen.clear()


def path_on(kind: str) -> PathName:
    """The path on a kind of device ("cpu", "cuda"); the first call for it says in the log what is taken and why.

    Raises ValueError when Triton is demanded and cannot run there.
    """
    if kind not in _chosen:
        _chosen[kind], why = _decide(kind)
        level = logging.WARNING if kind == "cuda" and _chosen[kind] != "triton" else logging.INFO
        logger.log(level, "Gated operations on %s: %s path, %s.", kind, _chosen[kind], why)
    return _chosen[kind]


def code_for(tensor: Tensor) -> Code:
    """The code that computes on this tensor; the reference path, which has no operators, partitions as torch does."""
    is_triton = path_on(tensor.device.type) == "triton"
    # Float64 is for checks: Triton's matrix kernels compute in 16 and 32 bits.
    if is_triton and tensor.dtype != torch.float64 and tensor.numel():
        return _code("triton_path")
    return _code("torch_path")


@cache
def _code(package: str) -> Code:
    """Imported when first wanted: Triton may be absent where nothing runs on it."""
    names = [field.name for field in fields(Code)]
    return Code(**{name: import_module(f"adaptive_ft_kernels.{package}.{name}") for name in names})


def _decide(kind: str) -> tuple[PathName, str]:
    """The path on a kind of device, and why."""
    demand = _demanded[0] if _demanded else _checked(os.environ.get(VARIABLE, "auto"), VARIABLE)
    missing = _missing_for_triton(kind)
    if demand == "triton" and missing:
        raise ValueError(f"the Triton kernels were demanded but cannot run on {kind}: {missing}")
    if demand != "auto":
        return demand, "as demanded"
    if not missing:
        return "triton", "the fastest there"
    if kind == "cuda":
        return "torch", f"which waits for the device in every layer, because of Triton's kernels: {missing}"
    return "torch", "samples grouped by gate"


def _missing_for_triton(kind: str) -> str:
    """Why Triton's kernels cannot run on a kind of device; empty where they can."""
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if kind == "cuda" and torch.version.hip:
        return "their tiles are cut for NVIDIA's devices"
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return "" if major >= 8 else f"they need compute capability 8.0 or newer, this device has {major}.{minor}"
    if os.environ.get("TRITON_INTERPRET") == "1" and kind == "cpu":
        return ""
    return "they need a CUDA device (or TRITON_INTERPRET=1, to check them on a CPU)"


def _checked(word: str, source: str) -> Demand:
    if word not in get_args(Demand):
        raise ValueError(f"{source} is '{word}'; choose one of {', '.join(get_args(Demand))}")
    return cast(Demand, word)
