"""Linear layer whose samples choose, per block of output columns, between pretrained and tuned weights.

The weights are selected before the matrix product, so the forward costs one product, not two branches. Forward
and backward are operators that torch.compile and activation recomputation see whole; `dispatch` says which code is
behind them. Shape suffixes: B samples, S rows per sample, C components, N outputs, K inputs, M samples whose
gate gradient is evaluated.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.dispatch import code_for, path_on
from adaptive_ft_kernels.layout import contiguous, rows_of
from adaptive_ft_kernels.operators import operator
from adaptive_ft_kernels.plan import GatePlan, plan_gates


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

    `x` is [B, ..., K] with at least two axes, the result [B, ..., N] in the dtype of `x` (of autocast where it is
    on). Component c owns the c-th of C equal blocks of the N output columns. W + delta is summed in float32 and
    rounded once. On a CPU the result for equal gates is that of `F.linear` with W or W + delta, bit for bit. `plan`
    is `plan_gates(gates_BC)`, made here when it is not given.

    Gradients: x, gates (<x[b]^T dy[b, c], delta_c> + <sum dy[b, c], delta_b_c>, the derivative of the linear mix;
    for the samples that the plan evaluates), delta and its bias (zeros when no sample is tuned). W and b are frozen
    and never get one. Raises ValueError for shapes that do not fit and, on a CPU, for gates other than 0 and 1.
    """
    plan = plan_gates(gates_BC) if plan is None else plan
    _check_shapes(x, gates_BC, weight_NK, bias_N, delta_weight_NK, delta_bias_N)
    plan.fits(*gates_BC.shape)
    if path_on(x.device.type) == "reference":
        return reference.gated_linear(x, gates_BC, weight_NK, bias_N, delta_weight_NK, delta_bias_N)
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    elif x.dtype != weight_NK.dtype:
        raise ValueError(f"x is {x.dtype} but the weight is {weight_NK.dtype}; cast one or use torch.autocast")
    # The weights follow the dtype of x inside: a delta must reach the sum weight + delta in full precision.
    y_BSN = _GatedLinear.apply(
        rows_of(x),
        *(gates_BC, weight_NK, bias_N, delta_weight_NK, delta_bias_N),
        *(plan.order_CB, plan.num_frozen_C, plan.sampled_CM),
    )
    return y_BSN.view(*x.shape[:-1], weight_NK.shape[0])


def _check_shapes(
    x: Tensor,
    gates_BC: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
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
    for name, value, shape in (
        ("delta_weight", delta_weight_NK, weight_NK.shape),
        ("bias", bias_N, weight_NK.shape[:1]),
        ("delta_bias", delta_bias_N, weight_NK.shape[:1]),
    ):
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} like the weight, got {list(value.shape)}")


def _fake_forward(x_BSK: Tensor, weight_NK: Tensor, *_: Any) -> Tensor:
    return x_BSK.new_empty(*x_BSK.shape[:-1], weight_NK.shape[0])


@operator("gated_linear", _fake_forward)
def _forward(
    x_BSK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
) -> Tensor:
    return code_for(x_BSK).linear.forward(
        *contiguous(x_BSK, weight_NK, bias_N, delta_weight_NK, delta_bias_N, order_CB, num_frozen_C)
    )


def _fake_backward(
    grad_BSN: Tensor,
    x_BSK: Tensor | None,
    weight_NK: Tensor,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
    sampled_CM: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wants_x, wants_gates, wants_delta = wanted
    num_components, batch = order_CB.shape
    wide = torch.promote_types(grad_BSN.dtype, torch.float32)
    return (
        grad_BSN.new_empty(*grad_BSN.shape[:-1], weight_NK.shape[1]) if wants_x else grad_BSN.new_empty(0),
        grad_BSN.new_empty(batch, num_components, dtype=wide) if wants_gates else grad_BSN.new_empty(0),
        torch.empty_like(delta_weight_NK) if wants_delta else grad_BSN.new_empty(0),
        delta_weight_NK.new_empty(weight_NK.shape[0]) if wants_delta else grad_BSN.new_empty(0),
    )


@operator("gated_linear_backward", _fake_backward)
def _backward(
    grad_BSN: Tensor,
    x_BSK: Tensor | None,
    weight_NK: Tensor,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
    sampled_CM: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gates, delta and delta bias; empty tensors where `wanted` (x, gates, deltas) says no."""
    wants_x, wants_gates, wants_delta = wanted
    code = code_for(grad_BSN).linear
    grad_BSN, x_BSK, weight_NK, delta_weight_NK, delta_bias_N = contiguous(
        grad_BSN, x_BSK, weight_NK, delta_weight_NK, delta_bias_N
    )
    of_x, of_gates, of_delta, of_delta_bias = (grad_BSN.new_empty(0) for _ in range(4))
    with torch.autocast(grad_BSN.device.type, enabled=False):  # the forward has chosen the dtypes
        if wants_x:
            of_x = code.input_gradient(grad_BSN, weight_NK, delta_weight_NK, order_CB, num_frozen_C)
        if wants_delta and wants_gates:
            of_delta, of_delta_bias, of_gates = code.delta_and_gate_gradient(
                grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, order_CB, num_frozen_C, sampled_CM
            )
        elif wants_delta:
            of_delta, of_delta_bias = code.delta_gradient(
                grad_BSN, x_BSK, order_CB, num_frozen_C, delta_weight_NK.dtype
            )
        elif wants_gates:
            of_gates = code.gate_gradient(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, sampled_CM)
    return of_x, of_gates, of_delta, of_delta_bias


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BSK: Tensor,
        gates_BC: Tensor,
        weight_NK: Tensor,
        bias_N: Tensor | None,
        delta_weight_NK: Tensor,
        delta_bias_N: Tensor | None,
        *plan: Tensor,
    ) -> Tensor:
        order_CB, num_frozen_C, _ = plan
        _, needs_gates, _, _, needs_delta, needs_delta_bias, *_ = ctx.needs_input_grad
        keeps_x = needs_gates or needs_delta or needs_delta_bias
        ctx.save_for_backward(x_BSK if keeps_x else None, weight_NK, delta_weight_NK, delta_bias_N, *plan)
        ctx.gates_dtype = gates_BC.dtype
        return _forward(x_BSK, weight_NK, bias_N, delta_weight_NK, delta_bias_N, order_CB, num_frozen_C)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSN: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_gates, _, _, needs_delta, needs_delta_bias, *_ = ctx.needs_input_grad
        of_x, of_gates, of_delta, of_delta_bias = _backward(
            grad_BSN, *ctx.saved_tensors, [needs_x, needs_gates, needs_delta or needs_delta_bias]
        )
        return (
            of_x if needs_x else None,
            of_gates.to(ctx.gates_dtype) if needs_gates else None,
            *(None, None),
            of_delta if needs_delta else None,
            of_delta_bias if needs_delta_bias else None,
            *(None, None, None),
        )
