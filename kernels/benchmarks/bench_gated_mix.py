"""gated_mix beside the copy of as many bytes and the same formula in plain PyTorch.

pytest kernels/benchmarks/bench_gated_mix.py
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.gated_mix import gated_mix
from measuring import DEVICE, DTYPE, ON_GPU, Cell, measure

SAMPLES, ROWS = (64, 56) if ON_GPU else (32, 36)
FEATURES = [768, 3072]
TITLE = f"gated_mix, {{}} ({SAMPLES} samples of {ROWS} rows)"


@pytest.mark.parametrize("column", ["copy", "ours", "plain formula"])
@pytest.mark.parametrize("features", FEATURES)
def test_forward(benchmark: BenchmarkFixture, features: int, column: str) -> None:
    """Two tensors are read and one is written: as many bytes as a copy of one and a half."""
    tuned, frozen = (torch.randn(SAMPLES, ROWS, features, device=DEVICE, dtype=DTYPE) for _ in range(2))
    gates = torch.rand(SAMPLES, 12, device=DEVICE)
    source = torch.randn(SAMPLES * ROWS * features * 3 // 2, device=DEVICE).to(DTYPE)
    ways = {
        "copy": source.clone,
        "ours": lambda: gated_mix(tuned, frozen, gates),
        "plain formula": lambda: reference.gated_mix(tuned, frozen, gates),
    }
    measure(benchmark, Cell(TITLE.format("forward"), f"{features} features, 12 gates", column), ways[column])


@pytest.mark.parametrize("column", ["plain formula", "ours"])
@pytest.mark.parametrize("features", FEATURES)
def test_forward_and_backward(benchmark: BenchmarkFixture, features: int, column: str) -> None:
    tuned, frozen, grad = (torch.randn(SAMPLES, ROWS, features, device=DEVICE, dtype=DTYPE) for _ in range(3))
    inputs = [tuned.requires_grad_(), frozen.requires_grad_(), torch.rand(SAMPLES, 12, device=DEVICE).requires_grad_()]
    mix = gated_mix if column == "ours" else reference.gated_mix
    cell = Cell(TITLE.format("forward and backward"), f"{features} features, 12 gates", column)
    measure(benchmark, cell, lambda: torch.autograd.grad(mix(*inputs), inputs, grad))
