"""BlockDrop: what skipping layers saves, in evaluation and in a training step, of an encoder of VL-BERT-base's size.

    pytest kernels/benchmarks/bench_blockdrop.py

Each sample uses its own random layers. "ordinary" is the plain encoder, all of whose weights train.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import workloads
from measuring import Cell, measure

ROUNDS = 3
LAYERS = workloads.BERT_LAYERS
TITLE = f"BlockDrop, {workloads.MODELS['bert'].split(' of 15')[0]})"
# Column -> layers that each sample uses (None: a plain encoder), share of the gate gradients.
WAYS: dict[str, tuple[int | None, float]] = {
    "ordinary": (None, 1.0),
    f"all {LAYERS} used": (LAYERS, 1.0),
    f"4 of {LAYERS} used": (4, 1.0),
    f"4 of {LAYERS} used, 1/4 of the gate gradients": (4, 0.25),
}


@pytest.mark.parametrize("way", WAYS)
def test_training_step(benchmark: BenchmarkFixture, way: str) -> None:
    workload = workloads.blockdrop(*WAYS[way])
    measure(benchmark, Cell(TITLE, "training step", way), workload.train_step, rounds=ROUNDS)


@pytest.mark.parametrize("way", [way for way in WAYS if WAYS[way][1] == 1])
def test_evaluation(benchmark: BenchmarkFixture, way: str) -> None:
    workload = workloads.blockdrop(*WAYS[way])
    workload.model.eval()
    measure(benchmark, Cell(TITLE, "evaluation", way), workload.evaluate, rounds=ROUNDS)
