"""What this very machine reaches with a library's dense product and a plain copy, at the sizes used here.

pytest kernels/benchmarks/bench_machine.py
"""

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from measuring import DEVICE, DTYPE, Cell, measure

ROWS = (640, 1152, 1792, 3584)
SHAPES = ((768, 768), (768, 3072), (3072, 768))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_dense_product(benchmark: BenchmarkFixture, rows: int, shape: tuple[int, int]) -> None:
    num_inputs, num_outputs = shape
    x = torch.randn(rows, num_inputs, device=DEVICE, dtype=DTYPE)
    weight = torch.randn(num_outputs, num_inputs, device=DEVICE, dtype=DTYPE)
    amount = 2e-9 * rows * num_inputs * num_outputs
    cell = Cell("This machine: dense product", f"{rows} rows", f"{num_inputs} → {num_outputs}", amount)
    measure(benchmark, cell, lambda: F.linear(x, weight))


@pytest.mark.parametrize("mebibytes", [4, 64, 512])
def test_copy(benchmark: BenchmarkFixture, mebibytes: int) -> None:
    source = torch.randn(mebibytes * 2**20 // 4, device=DEVICE)
    target = torch.empty_like(source)
    amount = 2e-9 * mebibytes * 2**20  # read and written
    cell = Cell("This machine: copy", f"{mebibytes} MiB", "copy", amount, "GB")
    measure(benchmark, cell, lambda: target.copy_(source))
