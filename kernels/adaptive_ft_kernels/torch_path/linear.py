"""The gated linear layer as PyTorch products over samples grouped by gate.

Units of one product over all rows: forward 1, input gradient 1, delta gradient p (the tuned share), gate gradient
the evaluated share. Shape suffixes: B samples, S rows per sample, C components, N outputs, K inputs, M samples
whose gate gradient is evaluated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft_kernels.torch_path.pieces import Piece, pieces


def forward(
    x_BSK: Tensor,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
) -> Tensor:
    """y[b, c] = x[b] (W_c + g[b, c] delta_c)^T + b_c + g[b, c] delta_b_c, [B, S, N] in the dtype of x."""
    block = weight_NK.shape[0] // len(order_CB)
    parts = pieces(order_CB, num_frozen_C)
    products = (
        F.linear(
            part.take(x_BSK),
            _selected(weight_NK, delta_weight_NK, part, block, x_BSK.dtype),
            None if bias_N is None else _selected(bias_N, delta_bias_N, part, block, x_BSK.dtype),
        )
        for part in parts
    )
    if len(parts) == 1:
        return next(products)
    y_BSN = x_BSK.new_empty(*x_BSK.shape[:-1], weight_NK.shape[0])
    for part, product in zip(parts, products, strict=True):
        part.put(y_BSN[..., part.start * block : part.stop * block], product)
    return y_BSN


def input_gradient(
    grad_BSN: Tensor, weight_NK: Tensor, delta_weight_NK: Tensor, order_CB: Tensor, num_frozen_C: Tensor
) -> Tensor:
    """dx[b] = sum over c of dy[b, c] (W_c + g[b, c] delta_c), [B, S, K] in the dtype of dy."""
    block = weight_NK.shape[0] // len(order_CB)
    parts = pieces(order_CB, num_frozen_C)

    def product(part: Piece) -> Tensor:
        columns = grad_BSN[..., part.start * block : part.stop * block]
        return part.take(columns) @ _selected(weight_NK, delta_weight_NK, part, block, grad_BSN.dtype)

    if len(parts) == 1:
        return product(parts[0])
    # Up to C products are summed: in 16 bits each addition would round once more.
    sum_dtype = torch.promote_types(grad_BSN.dtype, torch.float32)
    grad_x_BSK = grad_BSN.new_empty(*grad_BSN.shape[:-1], weight_NK.shape[1], dtype=sum_dtype)
    for part in parts:
        values = product(part).to(sum_dtype)
        if part.start == 0:  # the pieces of the first column reach every sample: nothing to clear beforehand
            part.put(grad_x_BSK, values)
        elif part.samples is None:
            grad_x_BSK += values
        else:
            grad_x_BSK.index_add_(0, part.samples, values)
    return grad_x_BSK.to(grad_BSN.dtype)


def delta_gradient(
    grad_BSN: Tensor, x_BSK: Tensor, order_CB: Tensor, num_frozen_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """d delta_c = sum over the tuned samples b of dy[b, c]^T x[b], and the same of the bias; [N, K] and [N] in `dtype`.

    Zeros where no sample is tuned: every rank must hand the same set of gradients to the reduction, whatever its
    own gates are.
    """
    num_outputs = grad_BSN.shape[-1]
    block = num_outputs // len(order_CB)
    tuned = [part for part in pieces(order_CB, num_frozen_C) if part.tuned]
    if [(part.start, part.stop) for part in tuned] == [(0, len(order_CB))]:  # no zeros to fill and write into
        grad = tuned[0].take(grad_BSN)
        return _weight_gradient(grad, tuned[0].take(x_BSK)).to(dtype), grad.flatten(0, -2).sum(0).to(dtype)
    of_weight_NK = x_BSK.new_zeros(num_outputs, x_BSK.shape[-1], dtype=dtype)
    of_bias_N = x_BSK.new_zeros(num_outputs, dtype=dtype)
    for part in tuned:
        columns = slice(part.start * block, part.stop * block)
        grad = part.take(grad_BSN[..., columns])
        of_weight_NK[columns] = _weight_gradient(grad, part.take(x_BSK))
        of_bias_N[columns] = grad.flatten(0, -2).sum(0)
    return of_weight_NK, of_bias_N


def gate_gradient(
    grad_BSN: Tensor, x_BSK: Tensor, delta_weight_NK: Tensor, delta_bias_N: Tensor | None, sampled_CM: Tensor
) -> Tensor:
    """dg[b, c] = <dy[b, c], x[b] delta_c^T + delta_b_c> times B / M for the M sampled b, 0 elsewhere.

    [B, C] in float32 or wider.

    One product over all rows beats the other way, dotting delta with per-sample weight gradients that also serve
    the delta gradient: that saves p units, but streams N K numbers per sample through memory. Both gradients
    together, one CPU core, float32, p = .5, this way / the other: 4.9 / 5.1 ms (16 samples of 20 rows, 768 -> 768),
    39.7 / 47.4 ms (16 of 36, 768 -> 3072), 26.9 / 41.3 ms (16 of 20, 3072 -> 768), .33 / .44 ms (64 of 16,
    96 -> 96); only 12 heads with 36 rows go the other way round, 10.2 / 8.7 ms.
    """
    batch, (num_components, num_sampled) = len(x_BSK), sampled_CM.shape
    if num_sampled == batch:
        return _dot_with_change(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, num_components)
    block = grad_BSN.shape[-1] // num_components
    of_gates_BC = x_BSK.new_zeros(batch, num_components, dtype=torch.promote_types(x_BSK.dtype, torch.float32))
    for component, samples in enumerate(sampled_CM.long()):
        columns = slice(component * block, (component + 1) * block)
        of_gates_BC[samples, component] = _dot_with_change(
            grad_BSN[..., columns].index_select(0, samples),
            x_BSK.index_select(0, samples),
            delta_weight_NK[columns],
            None if delta_bias_N is None else delta_bias_N[columns],
            1,
        ).squeeze(1)
    return of_gates_BC.mul_(batch / num_sampled)


def delta_and_gate_gradient(
    grad_BSN: Tensor,
    x_BSK: Tensor,
    delta_weight_NK: Tensor,
    delta_bias_N: Tensor | None,
    order_CB: Tensor,
    num_frozen_C: Tensor,
    sampled_CM: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both of the above: of delta, of its bias, of the gates."""
    of_delta_NK, of_delta_bias_N = delta_gradient(grad_BSN, x_BSK, order_CB, num_frozen_C, delta_weight_NK.dtype)
    return of_delta_NK, of_delta_bias_N, gate_gradient(grad_BSN, x_BSK, delta_weight_NK, delta_bias_N, sampled_CM)


def _dot_with_change(
    grad_BSN: Tensor, x_BSK: Tensor, delta_weight_NK: Tensor, delta_bias_N: Tensor | None, num_components: int
) -> Tensor:
    """<dy[b, c], x[b] delta_c^T + delta_b_c>, [B, C] in float32 or wider."""
    delta_bias_N = None if delta_bias_N is None else delta_bias_N.to(x_BSK.dtype)
    change = F.linear(x_BSK, delta_weight_NK.to(x_BSK.dtype), delta_bias_N)
    products = change.to(torch.promote_types(grad_BSN.dtype, torch.float32)).mul_(grad_BSN)
    return products.unflatten(-1, (num_components, -1)).sum((1, 3))


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return grad.flatten(0, -2).T @ x.flatten(0, -2)


def _selected(parameter: Tensor, delta: Tensor | None, part: Piece, block: int, dtype: torch.dtype) -> Tensor:
    """The rows of a weight or bias that a piece uses, in `dtype`."""
    rows = slice(part.start * block, part.stop * block)
    if not part.tuned or delta is None:
        return parameter[rows].to(dtype)
    # PyTorch adds 16-bit numbers in float32 and rounds once, so no wider copy is needed here.
    return (parameter[rows] + delta[rows]).to(dtype)
