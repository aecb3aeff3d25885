"""Mix of two activations by gates, for modules whose weights cannot be selected beforehand.

Both branches must be computed; where the gates are 0 or 1, `gated_linear` and `gated_layer_norm` need only one.
Forward and backward are operators that torch.compile and activation recomputation see whole; `dispatch` says which
code is behind them. Shape suffixes: B samples, S rows per sample, C components, N features.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.dispatch import code_for, path_on
from adaptive_ft_kernels.layout import contiguous, rows_of
from adaptive_ft_kernels.operators import operator


def gated_mix(tuned: Tensor, frozen: Tensor, gates: Tensor) -> Tensor:
    """y[b, c] = frozen[b, c] + g[b, c] (tuned[b, c] - frozen[b, c]), g any numbers, soft gates included.

    `tuned` and `frozen` are [B, ..., N] of one dtype, which the result has, too; it is computed in float32 or wider
    and rounded once, and a gate of 0 or 1 gives its branch bit for bit where the other one is finite. `gates` is
    [B, C], component c owning the c-th of C equal blocks of the last axis, or [B] for one gate per sample.

    Gradients: tuned (g dy), frozen ((1 - g) dy), gates (<dy[b, c], tuned[b, c] - frozen[b, c]>). Raises ValueError
    for shapes and dtypes that do not fit.
    """
    _check(tuned, frozen, gates)
    gates_BC = gates.unsqueeze(1) if gates.dim() == 1 else gates
    if path_on(tuned.device.type) == "reference":
        return reference.gated_mix(tuned, frozen, gates_BC)
    return _GatedMix.apply(rows_of(tuned), rows_of(frozen), gates_BC).view(tuned.shape)


def _check(tuned: Tensor, frozen: Tensor, gates: Tensor) -> None:
    if tuned.dim() < 2 or tuned.shape != frozen.shape or tuned.dtype != frozen.dtype:
        raise ValueError(
            "tuned and frozen must be [samples, ..., features] of one shape and dtype, got "
            f"{list(tuned.shape)} {tuned.dtype} and {list(frozen.shape)} {frozen.dtype}"
        )
    if gates.dim() not in (1, 2) or len(gates) != len(tuned):
        raise ValueError(
            f"gates for {len(tuned)} samples must be [samples] or [samples, components], got {list(gates.shape)}"
        )
    num_components = 1 if gates.dim() == 1 else gates.shape[1]
    if num_components == 0 or tuned.shape[-1] % num_components:
        raise ValueError(f"{tuned.shape[-1]} features cannot be split evenly over {num_components} components")


def _fake_forward(tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor) -> Tensor:
    return tuned_BSN.new_empty(tuned_BSN.shape)


@operator("gated_mix", _fake_forward)
def _forward(tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor) -> Tensor:
    return code_for(tuned_BSN).mix.forward(*contiguous(tuned_BSN, frozen_BSN, gates_BC))


def _fake_backward(
    grad_BSN: Tensor, tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_gates_BC = tuned_BSN.new_empty(gates_BC.shape, dtype=torch.promote_types(tuned_BSN.dtype, torch.float32))
    return tuned_BSN.new_empty(tuned_BSN.shape), tuned_BSN.new_empty(tuned_BSN.shape), of_gates_BC


@operator("gated_mix_backward", _fake_backward)
def _backward(
    grad_BSN: Tensor, tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tuned, frozen and gates (in float32 or wider)."""
    return code_for(tuned_BSN).mix.backward(*contiguous(grad_BSN, tuned_BSN, frozen_BSN, gates_BC))


class _GatedMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor) -> Tensor:
        ctx.save_for_backward(tuned_BSN, frozen_BSN, gates_BC)
        ctx.gates_dtype = gates_BC.dtype
        return _forward(tuned_BSN, frozen_BSN, gates_BC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSN: Tensor) -> tuple[Tensor | None, ...]:
        needs_tuned, needs_frozen, needs_gates = ctx.needs_input_grad
        of_tuned_BSN, of_frozen_BSN, of_gates_BC = _backward(grad_BSN, *ctx.saved_tensors)
        return (
            of_tuned_BSN if needs_tuned else None,
            of_frozen_BSN if needs_frozen else None,
            of_gates_BC.to(ctx.gates_dtype) if needs_gates else None,
        )
