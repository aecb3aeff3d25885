"""Leaf modules in the place of a `Linear` or `LayerNorm`: each sample chooses its weights by its gates.

They keep the pretrained tensors under their original names, so that base checkpoints load unchanged, and add
trainable deltas, zero at the start: the tuned weight is weight + delta. No model's forward has to change. Linear
layers with deltas of low rank are in low_rank.py.
Shape suffixes: B samples, C components, N outputs, K inputs, D features.
"""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from adaptive_ft.gates import GateHolder
from adaptive_ft_kernels import gated_layer_norm, gated_linear


class GatedLeaf(nn.Module, ABC):
    """Frozen `weight` and `bias`, a trainable `delta_bias`, and the holder's columns `start:stop` that gate them.

    Subclasses add what trains in the place of the weight and say in `delta` what that comes to.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    delta_bias: nn.Parameter | None

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, holder: GateHolder, columns: range, name: str
    ) -> None:
        super().__init__()
        num_components = len(columns)
        if num_components == 0 or weight.shape[0] % num_components:
            raise ValueError(
                f"{name}: {weight.shape[0]} outputs cannot be split evenly over {num_components} components"
            )
        self.weight = weight
        self.register_parameter("bias", bias)
        self.register_parameter("delta_bias", None if bias is None else nn.Parameter(torch.zeros_like(bias)))
        for frozen in (weight, bias):
            if frozen is not None:
                frozen.requires_grad_(False)
        holder.claim(columns.start, columns.stop, name)
        self.holder = holder
        self.start, self.stop = columns.start, columns.stop
        self.name = name

    @abstractmethod
    def delta(self) -> Tensor:
        """What the tuned weight has beyond the pretrained one."""

    @abstractmethod
    def to_plain(self, tuned_C: Tensor) -> nn.Module:
        """The plain layer with tuned weights in the components that are 1 in `tuned_C` [C], frozen ones elsewhere."""

    def tuned_weight(self) -> Tensor:
        """weight + delta, in the dtype of the weight."""
        return (self.weight + self.delta()).to(self.weight.dtype)

    def tuned_bias(self) -> Tensor | None:
        """bias + delta, in the dtype of the bias; None where there is no bias."""
        if self.bias is None or self.delta_bias is None:
            return None
        return (self.bias + self.delta_bias).to(self.bias.dtype)

    def _fold(self, tuned_C: Tensor) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Weight and bias with the delta added where a component is tuned, as new trainable parameters."""
        num_components = self.stop - self.start
        if tuned_C.shape != (num_components,) or not ((tuned_C == 0) | (tuned_C == 1)).all():
            raise ValueError(
                f"{self.name} needs {num_components} decisions, each 0 (frozen) or 1 (tuned), got {tuned_C.tolist()}"
            )
        block = self.weight.shape[0] // num_components
        tuned_N = tuned_C.to(self.weight.device, torch.bool).repeat_interleave(block)
        with torch.no_grad():
            rows = tuned_N.view(-1, *[1] * (self.weight.dim() - 1))
            weight = nn.Parameter(torch.where(rows, self.tuned_weight(), self.weight))
            tuned_bias = self.tuned_bias()
            if self.bias is None or tuned_bias is None:
                return weight, None
            return weight, nn.Parameter(torch.where(tuned_N, tuned_bias, self.bias))


class LinearLeaf(GatedLeaf):
    """A gated leaf in the place of a `Linear`, whatever form its delta has."""

    def to_plain(self, tuned_C: Tensor) -> nn.Linear:
        """A `Linear` with tuned weights in the components that are 1 in `tuned_C` [C], frozen ones elsewhere."""
        weight, bias = self._fold(tuned_C)
        num_outputs, num_inputs = weight.shape
        plain = nn.Linear(num_inputs, num_outputs, bias=bias is not None, device="meta")
        plain.weight, plain.bias = weight, bias  # type: ignore[assignment]  # the stub forgets that a bias may be None
        return plain.train(self.training)

    def extra_repr(self) -> str:
        num_outputs, num_inputs = self.weight.shape
        return (
            f"in_features={num_inputs}, out_features={num_outputs}, bias={self.bias is not None}, "
            f"gates={self.start}:{self.stop}"
        )


class GatedLinear(LinearLeaf):
    """y[b, c] = x[b] (W_c + g[b, c] delta_c)^T + bias, c running over the columns `start:stop` of the holder.

    `x` is [B, ..., K]; the N outputs are split evenly over the components. Raises ValueError as
    `GateHolder.read`.
    """

    delta_weight: nn.Parameter

    @classmethod
    def from_linear(cls, linear: nn.Linear, holder: GateHolder, start: int, stop: int, name: str) -> Self:
        """Takes over the very parameters of `linear`, frozen from now on. `name` is for messages.

        Raises ValueError when the outputs cannot be split evenly over the components.
        """
        gated = cls(linear.get_parameter("weight"), linear.bias, holder, range(start, stop), name)
        gated.delta_weight = nn.Parameter(torch.zeros_like(gated.weight))
        return gated

    def delta(self) -> Tensor:
        return self.delta_weight

    def forward(self, x: Tensor) -> Tensor:
        gates_BC, plan = self.holder.read(self.start, self.stop, x.shape[0], self.name)
        return gated_linear(x, gates_BC, self.weight, self.bias, self.delta_weight, self.delta_bias, plan=plan)


class GatedLayerNorm(GatedLeaf):
    """y[b] = xhat[b] (w + g[b] delta_w) + b + g[b] delta_b, xhat the layer-normalised x [B, ..., D].

    g is the holder's column `start`. Raises ValueError as `GateHolder.read`.
    """

    bias: nn.Parameter
    delta_weight: nn.Parameter
    delta_bias: nn.Parameter
    eps: float

    @classmethod
    def from_layer_norm(cls, norm: nn.LayerNorm, holder: GateHolder, start: int, stop: int, name: str) -> Self:
        """Takes over the very parameters of `norm`, frozen from now on. `name` is for messages.

        Raises ValueError when `norm` lacks a scale or shift, has more than one axis, or more than one gate.
        """
        if norm.weight is None or norm.bias is None or len(norm.normalized_shape) != 1:
            raise ValueError(f"{name}: only a LayerNorm over one axis with weight and bias can be gated, got {norm}")
        if stop - start != 1:
            raise ValueError(f"{name}: a LayerNorm is one component but was given gate columns {start}:{stop}")
        gated = cls(norm.weight, norm.bias, holder, range(start, stop), name)
        gated.delta_weight = nn.Parameter(torch.zeros_like(norm.weight))
        gated.eps = norm.eps
        return gated

    def delta(self) -> Tensor:
        return self.delta_weight

    def forward(self, x: Tensor) -> Tensor:
        gates_B1, plan = self.holder.read(self.start, self.stop, x.shape[0], self.name)
        return gated_layer_norm(
            x, gates_B1, self.weight, self.bias, self.delta_weight, self.delta_bias, self.eps, plan=plan
        )

    def to_plain(self, tuned_C: Tensor) -> nn.LayerNorm:
        """A `LayerNorm` that holds the tuned scale and shift if `tuned_C` [1] is 1, else the frozen ones."""
        weight, bias = self._fold(tuned_C)
        plain = nn.LayerNorm(len(weight), eps=self.eps, device="meta")
        plain.weight, plain.bias = weight, bias  # type: ignore[assignment]  # a LayerNorm here always has a bias
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, gates={self.start}:{self.stop}"
