"""Triton's partition of gates against sorting each column."""

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels.triton_path.partition import FEW, MANY, partition


def check(gates_BC: Tensor) -> None:
    order_CB, num_frozen_C, num_faulty = partition(gates_BC)
    assert (order_CB.dtype, num_frozen_C.dtype, num_faulty.dtype) == (torch.int32,) * 3
    tuned_CB = (gates_BC != 0).t()
    assert torch.equal(order_CB.long(), tuned_CB.int().argsort(dim=1, stable=True))
    assert torch.equal(num_frozen_C.long(), (~tuned_CB).sum(1))
    assert num_faulty.shape == ()
    assert num_faulty == ((gates_BC != 0) & (gates_BC != 1)).sum()


@pytest.mark.parametrize("batch", [1, 2, 37, FEW, FEW + 1, MANY, 2 * MANY + 5])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_sorts_every_column(batch: int, share: float) -> None:
    check((torch.rand(batch, 3) < share).float())


def test_single_frozen_or_tuned_samples_anywhere() -> None:
    check(torch.eye(20))
    check(1 - torch.eye(20))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_takes_gates_of_any_dtype(dtype: torch.dtype) -> None:
    check((torch.rand(9, 4) < 0.5).to(dtype))


def test_takes_strided_gates() -> None:
    check((torch.rand(4, 18) < 0.5).float().t()[::2])


def test_counts_faulty_gates_and_takes_them_as_tuned() -> None:
    gates = (torch.rand(200, 5) < 0.5).float()
    for place, value in {(0, 0): 0.5, (7, 0): float("nan"), (199, 4): 2.0, (3, 2): -1.0, (4, 2): float("inf")}.items():
        gates[place] = value
    assert partition(gates)[2] == 5
    check(gates)
