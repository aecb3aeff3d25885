"""Sorting the samples of every column by gate."""

import pytest
import torch

from adaptive_ft_kernels.torch_path.partition import partition


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_frozen_samples_first_in_rising_order(dtype: torch.dtype) -> None:
    order_CB, num_frozen_C, num_faulty = partition(torch.tensor([[1, 0], [0, 0], [1, 0], [0, 1]]).to(dtype))
    assert order_CB.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert num_frozen_C.tolist() == [2, 3]
    assert num_faulty == 0
    assert {order_CB.dtype, num_frozen_C.dtype, num_faulty.dtype} == {torch.int32}


def test_counts_what_is_no_gate() -> None:
    _, _, num_faulty = partition(torch.tensor([[0.0, 1.0, 0.5], [float("nan"), -1.0, 1.0]]))
    assert num_faulty == 3
