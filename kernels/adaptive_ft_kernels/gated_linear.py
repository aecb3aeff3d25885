"""Linear layer whose samples choose, per block of output columns, between pretrained and tuned weights.

The weights are selected before the matrix product, so the forward costs one product, not two branches. In
units of one product over all rows: forward 1, input gradient 1, delta gradient p (the tuned share), gate
gradient 1 if wanted. Shape suffixes: B samples, C components, N outputs, K inputs; `x`, `y` and `grad` may
have further axes after B.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptive_ft_kernels.plan import GatePlan, Piece, plan_gates


def gated_linear(
    x: Tensor,
    gates_BC: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    *,
    plan: GatePlan | None = None,
) -> Tensor:
    """y[b, c] = x[b] (W_c + g[b, c] delta_c)^T + b_c + g[b, c] delta_b_c for 0/1 gates g.

    `x` is [B, ..., K] with at least two axes, the result [B, ..., N] in the dtype of `x` (of autocast where
    it is on). Component c owns the c-th of C equal blocks of the N output columns. Where all gates are equal
    the result is that of `F.linear` with W or W + delta, bit for bit. `plan` is `plan_gates(gates_BC)`, made
    here when it is not given.

    Gradients: x, gates (<x[b]^T dy[b, c], delta_c> + <sum dy[b, c], delta_b_c>, the derivative of the linear
    mix), delta and its bias (zeros when no sample is tuned). W and b are frozen and never get one. Raises
    ValueError for shapes that do not fit and for gates other than 0 and 1.
    """
    plan = plan_gates(gates_BC) if plan is None else plan
    _check_shapes(x, gates_BC, weight_NK, bias_N, delta_bias_N, plan)
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    elif x.dtype != weight_NK.dtype:
        raise ValueError(f"x is {x.dtype} but the weight is {weight_NK.dtype}; cast one or use torch.autocast")
    # The weights follow the dtype of x inside: a delta must reach the sum weight + delta in full precision.
    return _GatedLinear.apply(x, gates_BC, weight_NK, bias_N, delta_weight_NK, delta_bias_N, plan)


def _check_shapes(
    x: Tensor,
    gates_BC: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_bias_N: Tensor | None,
    plan: GatePlan,
) -> None:
    num_outputs, num_inputs = weight_NK.shape
    num_samples, num_components = gates_BC.shape
    if x.dim() < 2 or x.shape[-1] != num_inputs:
        raise ValueError(f"x must be [samples, ..., {num_inputs}], got {list(x.shape)}")
    if x.shape[0] != num_samples:
        raise ValueError(f"x holds {x.shape[0]} samples but the gates hold {num_samples}")
    if num_components == 0 or num_outputs % num_components:
        raise ValueError(f"{num_outputs} output columns cannot be split evenly over {num_components} components")
    if (bias_N is None) != (delta_bias_N is None):
        raise ValueError("bias and delta_bias go together: give both or neither")
    if (plan.batch, len(plan.num_frozen)) != (num_samples, num_components):
        raise ValueError(
            f"the plan covers {plan.batch} samples and {len(plan.num_frozen)} components, "
            f"the gates {num_samples} and {num_components}"
        )


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gates_BC: Tensor,
        weight_NK: Tensor,
        bias_N: Tensor | None,
        delta_weight_NK: Tensor,
        delta_bias_N: Tensor | None,
        plan: GatePlan,
    ) -> Tensor:
        _, needs_gates, _, _, needs_delta, _, _ = ctx.needs_input_grad
        trains_a_sample = any(piece.tuned for piece in plan.pieces)
        keeps_x = needs_gates or (needs_delta and trains_a_sample)
        ctx.save_for_backward(x if keeps_x else None, weight_NK, delta_weight_NK, delta_bias_N)
        ctx.plan, ctx.gates_dtype = plan, gates_BC.dtype
        block = weight_NK.shape[0] // len(plan.num_frozen)
        products = (
            F.linear(
                piece.take(x),
                _selected(weight_NK, delta_weight_NK, piece, block, x.dtype),
                None if bias_N is None else _selected(bias_N, delta_bias_N, piece, block, x.dtype),
            )
            for piece in plan.pieces
        )
        if len(plan.pieces) == 1:
            (y,) = products
            return y
        y = x.new_empty(*x.shape[:-1], weight_NK.shape[0])
        for piece, product in zip(plan.pieces, products, strict=True):
            piece.put(y[..., piece.start * block : piece.stop * block], product)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_NK, delta_weight_NK, delta_bias_N = ctx.saved_tensors
        needs_x, needs_gates, _, _, needs_delta, needs_delta_bias, _ = ctx.needs_input_grad
        plan = ctx.plan
        with torch.autocast(grad.device.type, enabled=False):  # the forward has chosen the dtypes
            grad_x = _input_gradient(grad, plan, weight_NK, delta_weight_NK) if needs_x else None
            grad_gates = (
                _gate_gradient(grad, x, plan, delta_weight_NK, delta_bias_N).to(ctx.gates_dtype)
                if needs_gates
                else None
            )
            grad_delta = _delta_gradient(grad, x, plan, delta_weight_NK) if needs_delta else None
            grad_delta_bias = _delta_bias_gradient(grad, plan, delta_bias_N) if needs_delta_bias else None
        return grad_x, grad_gates, None, None, grad_delta, grad_delta_bias, None


def _selected(parameter: Tensor, delta: Tensor | None, piece: Piece, block: int, dtype: torch.dtype) -> Tensor:
    """The rows of a weight or bias that a piece uses, in `dtype`."""
    rows = slice(piece.start * block, piece.stop * block)
    if not piece.tuned or delta is None:
        return parameter[rows].to(dtype)
    # PyTorch adds 16-bit numbers in float32 and rounds once, so no wider copy is needed here.
    return (parameter[rows] + delta[rows]).to(dtype)


def _input_gradient(grad: Tensor, plan: GatePlan, weight_NK: Tensor, delta_weight_NK: Tensor) -> Tensor:
    """dx[b] = sum over c of dy[b, c] (W_c + g[b, c] delta_c)."""
    block = grad.shape[-1] // len(plan.num_frozen)

    def product(piece: Piece) -> Tensor:
        columns = grad[..., piece.start * block : piece.stop * block]
        return piece.take(columns) @ _selected(weight_NK, delta_weight_NK, piece, block, grad.dtype)

    if len(plan.pieces) == 1:
        return product(plan.pieces[0])
    # Up to C products are summed: in 16 bits each addition would round once more.
    grad_x = grad.new_empty(*grad.shape[:-1], weight_NK.shape[1], dtype=_sum_dtype(grad.dtype))
    for piece in plan.pieces:
        values = product(piece).to(grad_x.dtype)
        if piece.start == 0:  # the pieces of the first column reach every sample: nothing to clear beforehand
            piece.put(grad_x, values)
        elif piece.samples is None:
            grad_x += values
        else:
            grad_x.index_add_(0, piece.samples, values)
    return grad_x.to(grad.dtype)


def _gate_gradient(
    grad: Tensor, x: Tensor, plan: GatePlan, delta_weight_NK: Tensor, delta_bias_N: Tensor | None
) -> Tensor:
    """dg[b, c] = <dy[b, c], x[b] delta_c^T + delta_b_c>, for frozen and tuned samples alike.

    One product over all rows beats the other way, dotting delta with per-sample weight gradients that also
    serve the delta gradient: that saves p units, but streams N K numbers per sample through memory. Both
    gradients together, one CPU core, float32, p = .5, this way / the other: 4.9 / 5.1 ms (16 samples of 20
    rows, 768 -> 768), 39.7 / 47.4 ms (16 of 36, 768 -> 3072), 26.9 / 41.3 ms (16 of 20, 3072 -> 768), .33 /
    .44 ms (64 of 16, 96 -> 96); only 12 heads with 36 rows go the other way round, 10.2 / 8.7 ms.
    """
    num_components = len(plan.num_frozen)
    delta_bias_N = None if delta_bias_N is None else delta_bias_N.to(x.dtype)
    change = F.linear(x, delta_weight_NK.to(x.dtype), delta_bias_N)
    products = change.to(_sum_dtype(grad.dtype)).mul_(grad)
    rows = math.prod(x.shape[1:-1])
    return products.view(plan.batch, rows, num_components, grad.shape[-1] // num_components).sum((1, 3))


def _delta_gradient(grad: Tensor, x: Tensor | None, plan: GatePlan, delta_weight_NK: Tensor) -> Tensor:
    """d delta_c = sum over the tuned samples b of dy[b, c]^T x[b]; zeros, never None, when there are none.

    Every rank must hand the same set of gradients to the reduction, whatever its own gates are.
    """
    if x is None:  # the forward keeps it only where a gradient needs it
        return torch.zeros_like(delta_weight_NK)
    block = grad.shape[-1] // len(plan.num_frozen)
    if len(plan.pieces) == 1 and plan.pieces[0].tuned:
        return _weight_gradient(grad, x).to(delta_weight_NK.dtype)
    grad_delta_NK = torch.zeros_like(delta_weight_NK)
    for piece in plan.pieces:
        if piece.tuned:
            columns = slice(piece.start * block, piece.stop * block)
            grad_delta_NK[columns] = _weight_gradient(piece.take(grad[..., columns]), piece.take(x))
    return grad_delta_NK


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return grad.flatten(0, -2).T @ x.flatten(0, -2)


def _delta_bias_gradient(grad: Tensor, plan: GatePlan, delta_bias_N: Tensor) -> Tensor:
    block = grad.shape[-1] // len(plan.num_frozen)
    grad_delta_bias_N = torch.zeros_like(delta_bias_N)
    for piece in plan.pieces:
        if piece.tuned:
            columns = slice(piece.start * block, piece.stop * block)
            grad_delta_bias_N[columns] = piece.take(grad[..., columns]).flatten(0, -2).sum(0)
    return grad_delta_bias_N


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
