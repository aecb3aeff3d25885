"""Arithmetic that gives the same numbers each time on one device, for as long as a measurement takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CUBLAS, _WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


@contextmanager
def repeatable() -> Iterator[None]:
    """Products of float32 in full float32 (no TF32) and deterministic algorithms, as far as torch has them; what was
    set before is set again. It warns of an operation that has none.

    cuBLAS reads its workspace setting once per process: set CUBLAS_WORKSPACE_CONFIG=:4096:8 yourself where products
    ran on the GPU before.
    """
    precision, workspace = torch.get_float32_matmul_precision(), os.environ.get(_CUBLAS)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.flags(
        torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    try:
        os.environ.setdefault(_CUBLAS, _WORKSPACE)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(True, warn_only=True)
        with cudnn:
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.set_float32_matmul_precision(precision)
        if workspace is None:
            os.environ.pop(_CUBLAS, None)


def device_name(device: torch.device) -> str:
    """What a measurement's numbers may depend on: cpu, or the GPU by its product's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
