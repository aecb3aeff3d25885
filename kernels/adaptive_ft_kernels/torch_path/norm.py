"""The gated layer norm from PyTorch's own layer norm.

Rows are normalised one by one, so a sample's result never depends on its neighbours' gates, not even in the last
bit. Shape suffixes: B samples, S rows per sample, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(
    x_BSD: Tensor,
    residual_BSD: Tensor | None,
    gates_B1: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """y in `dtype`, x + residual (None without a residual), mean and 1 / deviation [B, S] in float32 or wider."""
    sum_BSD = None if residual_BSD is None else x_BSD + residual_BSD
    rows_BSD = (x_BSD if sum_BSD is None else sum_BSD).to(dtype)
    tuned_B = gates_B1.squeeze(1) != 0
    num_tuned = int(tuned_B.sum())
    mostly_tuned = 2 * num_tuned > len(tuned_B)
    frozen = _ready(weight_D, rows_BSD), _ready(bias_D, rows_BSD)
    tuned = _ready(_tuned(weight_D, delta_weight_D), rows_BSD), _ready(_tuned(bias_D, delta_bias_D), rows_BSD)
    most, few = (tuned, frozen) if mostly_tuned else (frozen, tuned)
    y_BSD, mean_BS1, rstd_BS1 = torch.native_layer_norm(rows_BSD, weight_D.shape, *most, eps)
    if 0 < num_tuned < len(tuned_B):
        # Once more for the smaller group: cheaper than gathering both groups and scattering what comes out.
        samples = (tuned_B != mostly_tuned).nonzero().squeeze(1)
        y_BSD.index_copy_(0, samples, F.layer_norm(rows_BSD.index_select(0, samples), weight_D.shape, *few, eps))
    return y_BSD, sum_BSD, mean_BS1.squeeze(2), rstd_BS1.squeeze(2)


def backward(
    grad_BSD: Tensor,
    sum_BSD: Tensor,
    mean_BS: Tensor,
    rstd_BS: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the sum (in its dtype), of the gates [B, 1] in float32 or wider, of delta_weight and delta_bias.

    Zeros, never None, where no sample is tuned: every rank must reduce the same set of gradients.
    """
    dtype = torch.promote_types(grad_BSD.dtype, torch.float32)
    shape = weight_D.shape
    rows_BSD, grad_BSD = sum_BSD.to(dtype), grad_BSD.to(dtype)
    tuned_B = gates_B1.squeeze(1) != 0
    weight_BD = torch.where(tuned_B.unsqueeze(1), _tuned(weight_D, delta_weight_D), weight_D).to(dtype)
    of_sum_BSD, _, _ = torch.ops.aten.native_layer_norm_backward(
        *(grad_BSD * weight_BD.unsqueeze(1), rows_BSD, shape, mean_BS.unsqueeze(2), rstd_BS.unsqueeze(2)),
        *(None, None, [True, False, False]),
    )
    # The gradient of each sample's own scale and shift: the deltas sum it, the gates weigh it.
    normed_BSD = (rows_BSD - mean_BS.unsqueeze(2)).mul_(rstd_BS.unsqueeze(2))
    of_scale_BD = normed_BSD.mul_(grad_BSD).sum(1)
    of_shift_BD = grad_BSD.sum(1)
    of_gates_B = of_scale_BD @ delta_weight_D.to(dtype) + of_shift_BD @ delta_bias_D.to(dtype)
    return (
        of_sum_BSD.to(sum_BSD.dtype),
        of_gates_B.unsqueeze(1),
        of_scale_BD[tuned_B].sum(0).to(delta_weight_D.dtype),
        of_shift_BD[tuned_B].sum(0).to(delta_bias_D.dtype),
    )


def _tuned(parameter_D: Tensor, delta_D: Tensor) -> Tensor:
    """The sum, rounded once, as a tuned parameter is stored."""
    # PyTorch adds 16-bit numbers in float32 and rounds once, so no wider copy is needed here.
    return (parameter_D + delta_D).to(parameter_D.dtype)


def _ready(parameter_D: Tensor, rows: Tensor) -> Tensor:
    """In the dtype with which PyTorch keeps mean and deviation in float32.

    On a CPU, 16-bit parameters would bring them down to 16 bits; y has the same bits either way.
    """
    return parameter_D.to(rows.dtype if rows.is_cuda else torch.promote_types(rows.dtype, torch.float32))
