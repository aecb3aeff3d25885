"""Sorts the samples of every column by gate. Shape suffixes: B samples, C components."""

import torch
from torch import Tensor


def partition(gates_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """order_CB int32 (frozen samples first, rising), num_frozen_C int32, and the number of gates other than 0 and 1.

    Such a gate counts as tuned.
    """
    tuned_CB = (gates_BC != 0).t().contiguous()
    order_CB = tuned_CB.view(torch.uint8).argsort(dim=1, stable=True).to(torch.int32)
    num_frozen_C = gates_BC.shape[0] - tuned_CB.sum(dim=1, dtype=torch.int32)
    num_faulty = (tuned_CB & (gates_BC != 1).t()).sum(dtype=torch.int32)
    return order_CB, num_frozen_C.to(torch.int32), num_faulty
