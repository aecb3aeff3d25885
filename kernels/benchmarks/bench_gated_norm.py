"""gated_layer_norm, with the residual sum in it, beside an ordinary layer norm and both branches in full.

pytest kernels/benchmarks/bench_gated_norm.py
"""

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from adaptive_ft_kernels import gated_layer_norm, plan_gates, reference
from measuring import DEVICE, DTYPE, ON_GPU, Cell, measure

SAMPLES, ROWS, FEATURES = (64, 56, 768) if ON_GPU else (32, 36, 768)
SHARES = [0.0, 0.1, 0.5, 0.9, 1.0]
EPS = 1e-12
TITLE = f"gated_layer_norm of x + residual, {{}} ({SAMPLES} samples of {ROWS} rows, {FEATURES} features)"


class Norm:
    """Random operands of one layer norm, and its forward in each column of the tables."""

    def __init__(self, share: float) -> None:
        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*size, device=DEVICE, dtype=DTYPE) * scale

        self.x, self.residual, self.grad = (normal(SAMPLES, ROWS, FEATURES) for _ in range(3))
        self.gates = (torch.rand(SAMPLES, 1, device=DEVICE) < share).float()
        self.parameters = (normal(FEATURES), normal(FEATURES))
        self.deltas = (normal(FEATURES, scale=1e-3), normal(FEATURES, scale=1e-3))
        self.plan = plan_gates(self.gates)

    def forward(self, column: str) -> Tensor:
        if column == "ordinary":
            return F.layer_norm(self.x + self.residual, (FEATURES,), *self.parameters, EPS)
        gated = (self.gates, *self.parameters, *self.deltas, EPS)
        if column == "ours":
            return gated_layer_norm(self.x, *gated, residual=self.residual, plan=self.plan)
        return reference.gated_layer_norm(self.x + self.residual, *gated)

    def trained(self, column: str) -> list[Tensor]:
        """What the ordinary layer trains, or what the gated one does; from here on they want gradients."""
        trained = self.parameters if column == "ordinary" else (self.gates, *self.deltas)
        return [tensor.requires_grad_() for tensor in (self.x, self.residual, *trained)]


@pytest.mark.parametrize("column", ["ordinary", "ours", "two branches"])
@pytest.mark.parametrize("share", SHARES)
def test_forward(benchmark: BenchmarkFixture, share: float, column: str) -> None:
    norm = Norm(share)
    measure(benchmark, Cell(TITLE.format("forward"), f"{share:.0%} tuned", column), lambda: norm.forward(column))


@pytest.mark.parametrize("column", ["ordinary", "ours", "two branches"])
@pytest.mark.parametrize("share", SHARES)
def test_forward_and_backward(benchmark: BenchmarkFixture, share: float, column: str) -> None:
    norm = Norm(share)
    inputs = norm.trained(column)
    cell = Cell(TITLE.format("forward and backward"), f"{share:.0%} tuned", column)
    measure(benchmark, cell, lambda: torch.autograd.grad(norm.forward(column), inputs, norm.grad))
