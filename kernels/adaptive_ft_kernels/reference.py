"""The truth: both branches in full, mixed by their gates, in plain PyTorch with autograd's own gradients.

Twice the work of the real operations, any floating dtype (float64 in the tests), and soft gates are legal
here. Shape suffixes: B samples, C components, N outputs, K inputs, D features.
"""

import torch.nn.functional as F
from torch import Tensor


def gated_linear(
    x: Tensor,
    gates_BC: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
) -> Tensor:
    """y[b, c] = (1 - g[b, c]) (x[b] W_c^T + b_c) + g[b, c] (x[b] (W_c + delta_c)^T + b_c + delta_b_c).

    `x` is [B, ..., K], the result [B, ..., N]; component c owns the c-th of C equal blocks of output columns.
    """
    frozen = F.linear(x, weight_NK, bias_N)
    tuned_bias_N = None if bias_N is None or delta_bias_N is None else bias_N + delta_bias_N
    tuned = F.linear(x, weight_NK + delta_weight_NK, tuned_bias_N)
    gates_BN = gates_BC.repeat_interleave(weight_NK.shape[0] // gates_BC.shape[1], dim=1)
    gates = gates_BN.view(x.shape[0], *[1] * (x.dim() - 2), -1).to(frozen.dtype)
    return (1 - gates) * frozen + gates * tuned


def gated_layer_norm(
    x: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
    eps: float,
) -> Tensor:
    """y[b] = (1 - g[b]) LN(x[b]; w, b) + g[b] LN(x[b]; w + delta_w, b + delta_b), `x` [B, ..., D]."""
    shape = (x.shape[-1],)
    frozen = F.layer_norm(x, shape, weight_D, bias_D, eps)
    tuned = F.layer_norm(x, shape, weight_D + delta_weight_D, bias_D + delta_bias_D, eps)
    gates = gates_B1.view(x.shape[0], *[1] * (x.dim() - 1)).to(frozen.dtype)
    return (1 - gates) * frozen + gates * tuned


def gated_mix(tuned: Tensor, frozen: Tensor, gates_BC: Tensor) -> Tensor:
    """y[b, c] = (1 - g[b, c]) frozen[b, c] + g[b, c] tuned[b, c], blocks c of the last axis, `tuned` [B, ..., N]."""
    gates_BN = gates_BC.repeat_interleave(tuned.shape[-1] // gates_BC.shape[1], dim=1)
    gates = gates_BN.view(tuned.shape[0], *[1] * (tuned.dim() - 2), -1).to(tuned.dtype)
    return (1 - gates) * frozen + gates * tuned
