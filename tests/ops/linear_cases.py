"""What the tests of the gated linear layer share: kinds of gates, random arguments, outputs and gradients by name."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

GATES: dict[str, Callable[[int, int], Tensor]] = {
    "all frozen": lambda B, C: torch.zeros(B, C),
    "all tuned": lambda B, C: torch.ones(B, C),
    "one sample tuned": lambda B, C: torch.eye(B)[:1].T.expand(B, C),
    "one sample frozen": lambda B, C: 1 - torch.eye(B)[:1].T.expand(B, C),
    "same gates in all components": lambda B, C: torch.arange(B).remainder(2)[:, None].expand(B, C),
    "some components uniform": lambda B, C: torch.rand(B, C).round() * (torch.arange(C) % 3 != 0),
    "random": lambda B, C: torch.rand(B, C).round(),
}


@dataclass
class Inputs:
    """The operation's arguments, in its order; the frozen weight and bias get no gradient."""

    x: Tensor
    gates: Tensor
    weight: Tensor
    bias: Tensor | None
    delta_weight: Tensor
    delta_bias: Tensor | None

    def arguments(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def differentiable(self) -> dict[str, Tensor]:
        names = ("x", "gates", "delta_weight", "delta_bias")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to(self, dtype: torch.dtype) -> "Inputs":
        """The same numbers as fresh leaves; the gates stay as they are."""
        moved = [
            None if value is None else value.detach().to(value.dtype if name == "gates" else dtype)
            for name, value in zip((field.name for field in fields(self)), self.arguments(), strict=True)
        ]
        copy = Inputs(*moved)
        for value in copy.differentiable().values():
            value.requires_grad_()
        return copy


def draw(
    gates: Tensor,
    inner: tuple[int, ...] = (5,),
    block: int = 4,
    num_inputs: int = 6,
    delta_scale: float = 0.3,
) -> Inputs:
    """Random float64 arguments for these gates; delta_scale is ||delta|| / ||W||."""
    num_samples, num_components = gates.shape
    num_outputs = num_components * block
    inputs = Inputs(
        x=torch.randn(num_samples, *inner, num_inputs),
        gates=gates.double(),
        weight=torch.randn(num_outputs, num_inputs),
        bias=torch.randn(num_outputs),
        delta_weight=torch.randn(num_outputs, num_inputs) * delta_scale,
        delta_bias=torch.randn(num_outputs) * delta_scale,
    )
    return inputs.to(torch.float64)


def run(operation: Callable[..., Tensor], inputs: Inputs, grad: Tensor) -> dict[str, Tensor]:
    """The output and every gradient by name."""
    y = operation(*inputs.arguments())
    wanted = inputs.differentiable()
    gradients = torch.autograd.grad(y, list(wanted.values()), grad.to(y.dtype))
    return {"y": y.detach(), **dict(zip(wanted, gradients, strict=True))}


def relative_error(value: Tensor, truth: Tensor) -> float:
    difference = (value.double() - truth.double()).norm()
    return float(difference / truth.double().norm().clamp_min(1e-30))
