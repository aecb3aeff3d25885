"""Keeps these tests out of ordinary runs and gives their kernels memory that shows what was never written."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def nan_filled_memory() -> Iterator[None]:
    """Fresh memory holds NaN, as torch does it for deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def grouped() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """(order_CB, num_frozen_C) of gates [B, C], by a stable sort."""

    def of(gates_BC: Tensor) -> tuple[Tensor, Tensor]:
        order_CB = gates_BC.T.argsort(dim=1, stable=True)
        return order_CB.int().contiguous(), (gates_BC == 0).sum(0).int()

    return of
