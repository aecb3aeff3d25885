"""How every benchmark is measured: wall time everywhere, device time and memory besides on a CUDA device.

CUDA devices compute in bfloat16, CPUs in float32 with as many threads as PyTorch takes (OMP_NUM_THREADS).
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pytest_benchmark.fixture import BenchmarkFixture

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if ON_GPU else ("cpu", torch.float32)
REPLAYS = 100


@dataclass(frozen=True)
class Cell:
    """Where a number stands: in which table, row and column; a table's first column is what others compare with.

    amount: what one call computes or moves, in `unit` (GFLOP or GB), where the rate is worth telling.
    """

    table: str
    row: str
    column: str
    amount: float | None = None
    unit: str = "GFLOP"


def measure(benchmark: BenchmarkFixture, cell: Cell, work: Callable[[], object], *, rounds: int = 5) -> None:
    """Time `work` after one call to warm up, and say where the result belongs."""

    def finished() -> None:
        work()
        if ON_GPU:
            torch.cuda.synchronize()

    benchmark.group = cell.table
    benchmark.extra_info.update(row=cell.row, column=cell.column, amount=cell.amount, unit=cell.unit)
    benchmark.pedantic(finished, rounds=rounds, warmup_rounds=1)
    if ON_GPU:
        benchmark.extra_info["peak_mib"] = _work_space(finished)
        replayed = _captured(work)
        benchmark.extra_info["captured"] = replayed is not None
        benchmark.extra_info["device_ms"] = _device_time(replayed or work)


def _work_space(finished: Callable[[], None]) -> float:
    """MiB that `finished` allocates at its peak, beyond what was there before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    finished()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _captured(work: Callable[[], object]) -> Callable[[], None] | None:
    """`work` as the replay of a CUDA graph; None where it cannot be captured (it waits for the device)."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def _device_time(work: Callable[[], object]) -> float:
    """Median milliseconds between CUDA events around each call."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPLAYS)]
    for start, stop in events:
        start.record()
        work()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in events)
