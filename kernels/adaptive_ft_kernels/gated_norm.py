"""Layer norm whose samples choose between pretrained and tuned scale and shift.

Rows are normalised one by one, so a sample's result never depends on its neighbours' gates, not even in the
last bit. Shape suffixes: B samples, D features; `x`, `y` and `grad` may have further axes after B.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptive_ft_kernels.plan import GatePlan, plan_gates
from adaptive_ft_kernels.torch_path.pieces import Piece, pieces


def gated_layer_norm(
    x: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
    eps: float,
    *,
    plan: GatePlan | None = None,
) -> Tensor:
    """y[b] = xhat[b] (w + g[b] delta_w) + b + g[b] delta_b, xhat the layer-normalised x, for 0/1 gates g.

    `x` is [B, ..., D] with at least two axes. The result equals `F.layer_norm` with the selected parameters
    bit for bit, in its dtype too: that of `x`, but float32 under CUDA autocast. `plan` is
    `plan_gates(gates_B1)`, made here when it is not given.

    Gradients: x, gates (<dy[b], xhat[b] delta_w + delta_b>), delta_w and delta_b (zeros when no sample is
    tuned). w and b are frozen and never get one. Raises ValueError for shapes that do not fit and for gates
    other than 0 and 1.
    """
    plan = plan_gates(gates_B1) if plan is None else plan
    if x.dim() < 2 or x.shape[-1:] != weight_D.shape:
        raise ValueError(f"x must be [samples, ..., {weight_D.shape[0]}], got {list(x.shape)}")
    if gates_B1.shape != (x.shape[0], 1) or (plan.batch, plan.num_components) != (x.shape[0], 1):
        raise ValueError(
            f"x holds {x.shape[0]} samples and needs one gate each, got gates {list(gates_B1.shape)} "
            f"and a plan for {plan.batch} samples and {plan.num_components} components"
        )
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        # As autocast does for F.layer_norm; on a CPU it leaves the dtypes alone.
        x, weight_D, bias_D = x.float(), weight_D.float(), bias_D.float()
        delta_weight_D, delta_bias_D = delta_weight_D.float(), delta_bias_D.float()
    return _GatedLayerNorm.apply(x, gates_B1, weight_D, bias_D, delta_weight_D, delta_bias_D, eps, plan)


class _GatedLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gates_B1: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        delta_weight_D: Tensor,
        delta_bias_D: Tensor,
        eps: float,
        plan: GatePlan,
    ) -> Tensor:
        shape = (x.shape[-1],)
        outputs, statistics = [], []
        for piece in pieces(plan.order_CB, plan.num_frozen_C):
            weight, bias = _selected(piece, weight_D, bias_D, delta_weight_D, delta_bias_D)
            output, mean, rstd = torch.native_layer_norm(piece.take(x), shape, weight, bias, eps)
            outputs.append(output)
            statistics += [mean, rstd]
        ctx.save_for_backward(x, weight_D, bias_D, delta_weight_D, delta_bias_D, *statistics)
        ctx.plan, ctx.gates_dtype, ctx.eps = plan, gates_B1.dtype, eps
        return _joined(plan, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, bias_D, delta_weight_D, delta_bias_D, *statistics = ctx.saved_tensors
        needs_x, needs_gates, _, _, needs_delta, needs_delta_bias, _, _ = ctx.needs_input_grad
        # Zeros, never None, when no sample is tuned: every rank must reduce the same set of gradients.
        grad_delta = torch.zeros_like(delta_weight_D) if needs_delta else None
        grad_delta_bias = torch.zeros_like(delta_bias_D) if needs_delta_bias else None
        of_x, of_gates = [], []
        for piece, mean, rstd in zip(
            pieces(ctx.plan.order_CB, ctx.plan.num_frozen_C), statistics[0::2], statistics[1::2], strict=True
        ):
            rows, grad_rows = piece.take(x), piece.take(grad)
            weight, bias = _selected(piece, weight_D, bias_D, delta_weight_D, delta_bias_D)
            wanted = [needs_x, piece.tuned and needs_delta, piece.tuned and needs_delta_bias]
            of_rows, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
                grad_rows, rows, weight.shape, mean, rstd, weight, bias, wanted
            )
            of_x.append(of_rows)
            if needs_gates:
                of_gates.append(_gate_gradient(grad_rows, rows, delta_weight_D, delta_bias_D, ctx.eps))
            if grad_delta is not None and piece.tuned:
                grad_delta.copy_(of_weight)
            if grad_delta_bias is not None and piece.tuned:
                grad_delta_bias.copy_(of_bias)
        grad_x = _joined(ctx.plan, of_x) if needs_x else None
        grad_gates = _joined(ctx.plan, of_gates).to(ctx.gates_dtype) if needs_gates else None
        return grad_x, grad_gates, None, None, grad_delta, grad_delta_bias, None, None


def _joined(plan: GatePlan, parts: list[Tensor]) -> Tensor:
    """One tensor in the order of the batch from the parts that belong to the pieces of the plan."""
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].new_empty(plan.batch, *parts[0].shape[1:])
    for piece, part in zip(pieces(plan.order_CB, plan.num_frozen_C), parts, strict=True):
        piece.put(whole, part)
    return whole


def _gate_gradient(grad: Tensor, x: Tensor, delta_weight_D: Tensor, delta_bias_D: Tensor, eps: float) -> Tensor:
    """dg[b] = <dy[b], xhat[b] delta_w + delta_b> as a column [n, 1], in float32 or wider.

    Normalised anew: PyTorch keeps the forward's mean and deviation in 16 bits where the parameters have 16
    bits.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    grad = grad.to(dtype)
    by_feature = F.layer_norm(x.to(dtype), (x.shape[-1],), eps=eps).mul_(grad)
    with torch.autocast(x.device.type, enabled=False):
        change = by_feature @ delta_weight_D.to(dtype) + grad @ delta_bias_D.to(dtype)
    return change.unsqueeze(-1).flatten(1).sum(1, keepdim=True)


def _selected(
    piece: Piece, weight_D: Tensor, bias_D: Tensor, delta_weight_D: Tensor, delta_bias_D: Tensor
) -> tuple[Tensor, Tensor]:
    if not piece.tuned:
        return weight_D, bias_D
    # PyTorch adds 16-bit numbers in float32 and rounds once, so no wider copy is needed here.
    return (weight_D + delta_weight_D).to(weight_D.dtype), (bias_D + delta_bias_D).to(bias_D.dtype)
