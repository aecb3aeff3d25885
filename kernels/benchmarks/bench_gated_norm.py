"""gated_layer_norm beside an ordinary layer norm and both branches in full.

    pytest kernels/benchmarks/bench_gated_norm.py

Of x alone, as the models call it, and of x + residual, a sum that the kernel takes in.
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
FORMS = ("x", "x + residual")
TITLE = f"gated_layer_norm of {{}}, {{}} ({SAMPLES} samples of {ROWS} rows, {FEATURES} features)"


class Norm:
    """Random operands of one layer norm, and its forward in each column of the tables."""

    def __init__(self, form: str, share: float) -> None:
        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*size, device=DEVICE, dtype=DTYPE) * scale

        self.x, self.grad = (normal(SAMPLES, ROWS, FEATURES) for _ in range(2))
        self.residual = torch.randn_like(self.x) if form == "x + residual" else None
        self.gates = (torch.rand(SAMPLES, 1, device=DEVICE) < share).float()
        self.parameters = (normal(FEATURES), normal(FEATURES))
        self.deltas = (normal(FEATURES, scale=1e-3), normal(FEATURES, scale=1e-3))
        self.plan = plan_gates(self.gates)

    def forward(self, column: str) -> Tensor:
        gated = (self.gates, *self.parameters, *self.deltas, EPS)
        if column == "ours":
            return gated_layer_norm(self.x, *gated, residual=self.residual, plan=self.plan)
        x = self.x if self.residual is None else self.x + self.residual
        if column == "ordinary":
            return F.layer_norm(x, (FEATURES,), *self.parameters, EPS)
        return reference.gated_layer_norm(x, *gated)

    def trained(self, column: str) -> list[Tensor]:
        """What the ordinary layer trains, or what the gated one does; from here on they want gradients."""
        trained = self.parameters if column == "ordinary" else (self.gates, *self.deltas)
        summands = [self.x] if self.residual is None else [self.x, self.residual]
        return [tensor.requires_grad_() for tensor in (*summands, *trained)]


@pytest.mark.parametrize("column", ["ordinary", "ours", "two branches"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("form", FORMS)
def test_forward(benchmark: BenchmarkFixture, form: str, share: float, column: str) -> None:
    norm = Norm(form, share)
    measure(benchmark, Cell(TITLE.format(form, "forward"), f"{share:.0%} tuned", column), lambda: norm.forward(column))


@pytest.mark.parametrize("column", ["ordinary", "ours", "two branches"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("form", FORMS)
def test_forward_and_backward(benchmark: BenchmarkFixture, form: str, share: float, column: str) -> None:
    norm = Norm(form, share)
    inputs = norm.trained(column)
    cell = Cell(TITLE.format(form, "forward and backward"), f"{share:.0%} tuned", column)
    measure(benchmark, cell, lambda: torch.autograd.grad(norm.forward(column), inputs, norm.grad))
