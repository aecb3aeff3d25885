"""The gated linear layer's products on a GPU: what `torch_path.linear` computes, by the Triton kernels.

All tensors are contiguous, as the operators pass them.
"""

from torch import Tensor

from adaptive_ft_kernels.triton_path.delta_and_gate_grad import delta_and_gate_gradient
from adaptive_ft_kernels.triton_path.delta_grad import delta_gradient
from adaptive_ft_kernels.triton_path.gate_grad import gate_gradient
from adaptive_ft_kernels.triton_path.head_input_grad import head_input_gradient
from adaptive_ft_kernels.triton_path.product import Selectable, grouped_product

__all__ = [
    "delta_and_gate_gradient",
    "delta_gradient",
    "forward",
    "gate_gradient",
    "input_gradient",
]


def forward(
    x_BSK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
) -> Tensor:
    """y[b, c] = x[b] (W_c + g[b, c] delta_c)^T + b_c + g[b, c] delta_b_c: [B, S, N] in the dtype of x."""
    chosen = Selectable(weight_NK, delta_weight_NK, bias_N, delta_bias_N)
    y_RN = grouped_product(x_BSK.flatten(0, 1), chosen, order_CB, num_frozen_C)
    return y_RN.unflatten(0, x_BSK.shape[:2])


def input_gradient(
    grad_BSN: Tensor, weight_NK: Tensor, delta_weight_NK: Tensor, order_CB: Tensor, num_frozen_C: Tensor
) -> Tensor:
    """dx[b] = sum over c of dy[b, c] (W_c + g[b, c] delta_c): [B, S, K] in the dtype of grad."""
    if order_CB.shape[0] > 1:
        return head_input_gradient(grad_BSN, weight_NK, delta_weight_NK, order_CB, num_frozen_C)
    chosen = Selectable(weight_NK, delta_weight_NK, transposed=True)
    grad_x_RK = grouped_product(grad_BSN.flatten(0, 1), chosen, order_CB, num_frozen_C)
    return grad_x_RK.unflatten(0, grad_BSN.shape[:2])
