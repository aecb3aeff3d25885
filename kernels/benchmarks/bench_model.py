"""Whole models: a training step (forward and backward), an evaluation, and the memory of a step, way by way.

    pytest kernels/benchmarks/bench_model.py

"ordinary" is the same model with plain layers, all of whose weights train. See workloads.py for the others.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import workloads
from adaptive_ft_kernels import use_path
from measuring import ON_GPU, Cell, measure

ROUNDS = 3
CAN_TELL_MEMORY = ON_GPU or Path("/proc/self/clear_refs").exists()
CASES = [(model, way) for model in workloads.MODELS for way in workloads.WAYS]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, workloads.Workload]]:
    """Model, way, and the workload, which is built once for all its measurements."""
    model, way = request.param
    yield model, way, workloads.build(model, way)
    use_path("auto")


def test_training_step(benchmark: BenchmarkFixture, case: tuple[str, str, workloads.Workload]) -> None:
    model, way, workload = case
    cell = Cell(workloads.MODELS[model], "training step", way)
    measure(benchmark, cell, workload.train_step, rounds=ROUNDS)
    if CAN_TELL_MEMORY:
        benchmark.extra_info["process_peak_mib"] = _memory_in_a_fresh_process(model, way)


def test_evaluation(benchmark: BenchmarkFixture, case: tuple[str, str, workloads.Workload]) -> None:
    model, way, workload = case
    if way == workloads.QUARTER:
        pytest.skip("no gradients are computed: the same as 'adaptive'")
    workload.model.zero_grad(set_to_none=True)
    workload.model.eval()
    measure(benchmark, Cell(workloads.MODELS[model], "evaluation", way), workload.evaluate, rounds=ROUNDS)


def _memory_in_a_fresh_process(model: str, way: str) -> float:
    printed = subprocess.run(
        [sys.executable, workloads.__file__, model, way], capture_output=True, text=True, check=True
    ).stdout
    return float(printed.split()[-1])
