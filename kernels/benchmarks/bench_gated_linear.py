"""gated_linear against ordinary fine-tuning (F.linear) and the naive two-branch way, one group per shape and
gates.

    pytest kernels/benchmarks/bench_gated_linear.py

Within a group the numbers in parentheses are the ratios to the fastest. "tuned" gates are those of a constant
strategy (no gate gradient), "random" ones those of a policy (p = 1/2). Runs on a CUDA device where there is
one, in bfloat16, else on one CPU core in float32, in under a minute.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from adaptive_ft_kernels import gated_linear, plan_gates, reference

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if ON_GPU else ("cpu", torch.float32)
# samples, rows per sample, inputs, outputs, components
SHAPES = {
    "heads 768": (16, 36, 768, 768, 12),
    "output 768": (16, 20, 768, 768, 1),
    "ffn 768-3072": (16, 20, 768, 3072, 1),
    "heads 96": (64, 16, 96, 96, 4),
    "ffn 96-384": (64, 16, 96, 384, 1),
}


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def forward_of(way: str, shape: str, gates: str) -> tuple[Callable[[], Tensor], Tensor]:
    """The forward of one way on one shape, and an output gradient for it."""
    num_samples, rows, num_inputs, num_outputs, num_components = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator) * scale).to(DEVICE, DTYPE)

    x = normal(num_samples, rows, num_inputs).requires_grad_()
    weight, bias = normal(num_outputs, num_inputs, scale=0.02), normal(num_outputs)
    delta_weight = normal(num_outputs, num_inputs, scale=1e-3).requires_grad_()
    delta_bias = normal(num_outputs, scale=1e-3).requires_grad_()
    gates_BC = torch.ones(num_samples, num_components, device=DEVICE)
    if gates == "random":
        gates_BC = torch.rand(num_samples, num_components, generator=generator).round().to(DEVICE)
        gates_BC.requires_grad_()
    plan = plan_gates(gates_BC)
    grad = normal(num_samples, rows, num_outputs)
    arguments = (x, gates_BC, weight, bias, delta_weight, delta_bias)
    trained_weight, trained_bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    ways = {
        "linear": lambda: F.linear(x, trained_weight, trained_bias),
        "gated": lambda: gated_linear(*arguments, plan=plan),
        "two branches": lambda: reference.gated_linear(*arguments),
    }
    return ways[way], grad


def measure(benchmark: BenchmarkFixture, work: Callable[[], object]) -> None:
    def finished() -> None:
        work()
        if ON_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(finished, rounds=20, warmup_rounds=3)


@pytest.mark.parametrize("way", ["linear", "gated", "two branches"])
@pytest.mark.parametrize("gates", ["tuned", "random"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(benchmark: BenchmarkFixture, way: str, shape: str, gates: str) -> None:
    benchmark.group = f"forward, {shape}, {gates}"
    forward, _ = forward_of(way, shape, gates)
    with torch.no_grad():
        measure(benchmark, forward)


@pytest.mark.parametrize("way", ["linear", "gated", "two branches"])
@pytest.mark.parametrize("gates", ["tuned", "random"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark: BenchmarkFixture, way: str, shape: str, gates: str) -> None:
    benchmark.group = f"forward and backward, {shape}, {gates}"
    forward, grad = forward_of(way, shape, gates)
    measure(benchmark, lambda: forward().backward(grad))
