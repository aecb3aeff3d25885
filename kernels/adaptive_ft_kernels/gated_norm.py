"""Layer norm whose samples choose between pretrained and tuned scale and shift.

Forward and backward are operators that torch.compile and activation recomputation see whole; `dispatch` says which
code is behind them. Shape suffixes: B samples, S rows per sample, D features.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.dispatch import code_for, path_on
from adaptive_ft_kernels.layout import contiguous, rows_of
from adaptive_ft_kernels.operators import operator
from adaptive_ft_kernels.plan import GatePlan, plan_gates


def gated_layer_norm(
    x: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
    eps: float,
    *,
    residual: Tensor | None = None,
    plan: GatePlan | None = None,
) -> Tensor:
    """y[b] = xhat[b] (w + g[b] delta_w) + b + g[b] delta_b, xhat the layer-normalised x + residual, for 0/1 gates g.

    `x` is [B, ..., D] with at least two axes, `residual` of the same shape. The result has the dtype of
    x + residual, but float32 under CUDA autocast; on a CPU it equals `F.layer_norm` with the selected parameters bit
    for bit. `plan` is `plan_gates(gates_B1)`: whoever gives it has had the gates checked.

    Gradients: x and residual, gates (<dy[b], xhat[b] delta_w + delta_b>), delta_w and delta_b (zeros when no sample
    is tuned). w and b are frozen and never get one. Raises ValueError for shapes that do not fit and, on a CPU, for
    gates other than 0 and 1.
    """
    plan = plan_gates(gates_B1) if plan is None else plan
    _check_shapes(x, residual, gates_B1, weight_D, (bias_D, delta_weight_D, delta_bias_D))
    plan.fits(*gates_B1.shape)
    if path_on(x.device.type) == "reference":
        x = x if residual is None else x + residual
        return reference.gated_layer_norm(x, gates_B1, weight_D, bias_D, delta_weight_D, delta_bias_D, eps)
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = torch.promote_types(dtype, torch.float32)  # as autocast does for F.layer_norm, but not on a CPU
    y_BSD = _GatedLayerNorm.apply(
        *(rows_of(x), None if residual is None else rows_of(residual)),
        *(gates_B1, weight_D, bias_D, delta_weight_D, delta_bias_D, eps, dtype),
    )
    return y_BSD.view(x.shape)


def _check_shapes(
    x: Tensor, residual: Tensor | None, gates_B1: Tensor, weight_D: Tensor, others: tuple[Tensor, ...]
) -> None:
    if x.dim() < 2 or x.shape[-1:] != weight_D.shape:
        raise ValueError(f"x must be [samples, ..., {weight_D.shape[0]}], got {list(x.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"the residual must have the shape of x, {list(x.shape)}, got {list(residual.shape)}")
    if gates_B1.shape != (x.shape[0], 1):
        raise ValueError(f"x holds {x.shape[0]} samples and needs one gate each, got gates {list(gates_B1.shape)}")
    for name, value in zip(("bias", "delta_weight", "delta_bias"), others, strict=True):
        if value.shape != weight_D.shape:
            raise ValueError(f"{name} must be {list(weight_D.shape)} like the weight, got {list(value.shape)}")


def _fake_forward(x_BSD: Tensor, residual_BSD: Tensor | None, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, dtype = arguments
    shape = x_BSD.shape
    if residual_BSD is None:
        sum_BSD = x_BSD.new_empty(0)
    else:
        sum_BSD = x_BSD.new_empty(shape, dtype=torch.promote_types(x_BSD.dtype, residual_BSD.dtype))
    mean_BS, rstd_BS = (x_BSD.new_empty(shape[:2], dtype=torch.promote_types(dtype, torch.float32)) for _ in range(2))
    return x_BSD.new_empty(shape, dtype=dtype), sum_BSD, mean_BS, rstd_BS


@operator("gated_layer_norm", _fake_forward)
def _forward(
    x_BSD: Tensor,
    residual_BSD: Tensor | None,
    gates_B1: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y in `dtype`, x + residual (empty without a residual), mean and 1 / deviation of every row."""
    y_BSD, sum_BSD, mean_BS, rstd_BS = code_for(x_BSD).norm.forward(
        *contiguous(x_BSD, residual_BSD, gates_B1, weight_D, bias_D, delta_weight_D, delta_bias_D), eps, dtype
    )
    return y_BSD, x_BSD.new_empty(0) if sum_BSD is None else sum_BSD, mean_BS, rstd_BS


def _fake_backward(
    grad_BSD: Tensor,
    sum_BSD: Tensor,
    mean_BS: Tensor,
    rstd_BS: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_sum_BSD, of_gates_B1 = sum_BSD.new_empty(sum_BSD.shape), mean_BS.new_empty(len(mean_BS), 1)
    return of_sum_BSD, of_gates_B1, torch.empty_like(delta_weight_D), torch.empty_like(delta_bias_D)


@operator("gated_layer_norm_backward", _fake_backward)
def _backward(
    grad_BSD: Tensor,
    sum_BSD: Tensor,
    mean_BS: Tensor,
    rstd_BS: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x + residual, of the gates (float32 or wider), of delta_weight and delta_bias."""
    with torch.autocast(grad_BSD.device.type, enabled=False):  # the forward has chosen the dtypes
        return code_for(sum_BSD).norm.backward(
            *contiguous(grad_BSD, sum_BSD, mean_BS, rstd_BS, gates_B1, weight_D, delta_weight_D, delta_bias_D)
        )


class _GatedLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BSD: Tensor,
        residual_BSD: Tensor | None,
        gates_B1: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        delta_weight_D: Tensor,
        delta_bias_D: Tensor,
        *eps_and_dtype: Any,
    ) -> Tensor:
        y_BSD, sum_BSD, mean_BS, rstd_BS = _forward(
            x_BSD, residual_BSD, gates_B1, weight_D, bias_D, delta_weight_D, delta_bias_D, *eps_and_dtype
        )
        rows_BSD = x_BSD if residual_BSD is None else sum_BSD
        ctx.save_for_backward(rows_BSD, mean_BS, rstd_BS, gates_B1, weight_D, delta_weight_D, delta_bias_D)
        ctx.dtypes = [tensor.dtype for tensor in (x_BSD, rows_BSD if residual_BSD is None else residual_BSD, gates_B1)]
        return y_BSD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSD: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_residual, needs_gates, _, _, needs_delta_weight, needs_delta_bias, *_ = ctx.needs_input_grad
        x_dtype, residual_dtype, gates_dtype = ctx.dtypes
        of_sum_BSD, of_gates_B1, of_delta_weight_D, of_delta_bias_D = _backward(grad_BSD, *ctx.saved_tensors)
        return (
            of_sum_BSD.to(x_dtype) if needs_x else None,
            of_sum_BSD.to(residual_dtype) if needs_residual else None,
            of_gates_B1.to(gates_dtype) if needs_gates else None,
            *(None, None),
            of_delta_weight_D if needs_delta_weight else None,
            of_delta_bias_D if needs_delta_bias else None,
            *(None, None),
        )
