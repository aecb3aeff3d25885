"""gated_linear beside a dense product of the same shape, an ordinary training step, and both branches in full.

    pytest kernels/benchmarks/bench_gated_linear.py

Gates are random, each tuned with probability `share`. Gradients are measured alone (only their own input wants
one) and in a whole forward and backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from adaptive_ft_kernels import Draws, gated_linear, plan_gates, reference
from measuring import DEVICE, DTYPE, ON_GPU, Cell, measure

SAMPLES, ROWS = (64, 56) if ON_GPU else (16, 36)
# inputs, outputs, gates
SHAPES = {
    "768 → 768, 12 heads": (768, 768, 12),
    "768 → 768, 1 gate": (768, 768, 1),
    "768 → 3072, 1 gate": (768, 3072, 1),
}
SHARES = [0.0, 0.1, 0.5, 0.9, 1.0]
OURS, QUARTER, BOTH = "ours", "ours, 1/4 of the gate gradients", "two branches"
TITLE = f"gated_linear, {{}} ({SAMPLES} samples of {ROWS} rows)"


@dataclass(frozen=True)
class Operands:
    """Tensors of one layer; a gradient is wanted of those named in `of`."""

    x: Tensor
    gates: Tensor
    weight: Tensor
    bias: Tensor
    delta_weight: Tensor
    delta_bias: Tensor
    grad: Tensor

    @classmethod
    def random(cls, shape: str, share: float, *of: str) -> "Operands":
        num_inputs, num_outputs, num_gates = SHAPES[shape]

        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*size, device=DEVICE, dtype=DTYPE) * scale

        operands = cls(
            x=normal(SAMPLES, ROWS, num_inputs),
            gates=(torch.rand(SAMPLES, num_gates, device=DEVICE) < share).float(),
            weight=normal(num_outputs, num_inputs, scale=0.02),
            bias=normal(num_outputs),
            delta_weight=normal(num_outputs, num_inputs, scale=1e-3),
            delta_bias=normal(num_outputs, scale=1e-3),
            grad=normal(SAMPLES, ROWS, num_outputs),
        )
        for name in of:
            getattr(operands, name).requires_grad_()
        return operands

    def forward(self, column: str) -> Callable[[], Tensor]:
        """The forward pass of one column of the tables."""
        gated = (self.x, self.gates, self.weight, self.bias, self.delta_weight, self.delta_bias)
        if column == BOTH:
            return lambda: reference.gated_linear(*gated)
        if column in (OURS, QUARTER):
            plan = plan_gates(self.gates, gate_grad_fraction=0.25 if column == QUARTER else 1.0, draws=Draws())
            return lambda: gated_linear(*gated, plan=plan)
        return lambda: F.linear(self.x, self.weight, self.bias)


def row(shape: str, share: float) -> str:
    return f"{shape}, {share:.0%} tuned"


@pytest.mark.parametrize("column", ["dense", OURS, BOTH])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(benchmark: BenchmarkFixture, shape: str, share: float, column: str) -> None:
    forward = Operands.random(shape, share).forward(column)
    measure(benchmark, Cell(TITLE.format("forward"), row(shape, share), column), forward)


@pytest.mark.parametrize(
    ("gradient", "column"),
    [
        *(("x", column) for column in ("dense", OURS, BOTH)),
        *(("delta_weight", column) for column in ("dense", OURS, BOTH)),
        *(("gates", column) for column in ("dense", OURS, QUARTER)),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_gradient(benchmark: BenchmarkFixture, shape: str, gradient: str, column: str) -> None:
    """Gradients of delta and gates stand beside the weight gradient of a dense product.

    The gate gradient of both branches in full is left out: its work is the second branch of their forward.
    """
    wanted = "weight" if column == "dense" and gradient != "x" else gradient
    operands = Operands.random(shape, 0.5, wanted)
    output = operands.forward(column)()
    cell = Cell(TITLE.format("each gradient alone"), f"{shape}, 50% tuned, of {gradient}", column)
    of = (getattr(operands, wanted),)
    measure(benchmark, cell, lambda: torch.autograd.grad(output, of, operands.grad, retain_graph=True))


@pytest.mark.parametrize("column", ["ordinary step", OURS, QUARTER, BOTH])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark: BenchmarkFixture, shape: str, share: float, column: str) -> None:
    ordinary = column == "ordinary step"
    of = ("x", "weight", "bias") if ordinary else ("x", "gates", "delta_weight", "delta_bias")
    operands = Operands.random(shape, share, *of)
    forward, inputs = operands.forward(column), [getattr(operands, name) for name in of]
    cell = Cell(TITLE.format("forward and backward"), row(shape, share), column)
    measure(benchmark, cell, lambda: torch.autograd.grad(forward(), inputs, operands.grad))
