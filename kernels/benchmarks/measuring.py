"""How every benchmark is measured: wall time everywhere, device time and memory besides on a CUDA device.

CUDA devices compute in bfloat16, CPUs in float32 with as many threads as PyTorch takes (OMP_NUM_THREADS).
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pytest_benchmark.fixture import BenchmarkFixture

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if ON_GPU else ("cpu", torch.float32)
REPLAYS = 100
# The least wall time that all rounds of an operation take together, in seconds: of five rounds of a few milliseconds
# even the best differs by half between two runs.
LEAST_SECONDS = 0.2
LEAST_ROUNDS = 5
# Graphs whose capture failed. PyTorch's allocator may go on asking such a graph, so it must not be freed.
_failed: list[torch.cuda.CUDAGraph] = []


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


def measure(benchmark: BenchmarkFixture, cell: Cell, work: Callable[[], object], *, rounds: int | None = None) -> None:
    """Time `work` after one call to warm up, and say where the result belongs.

    rounds: how often; without a number as often as takes LEAST_SECONDS.
    """

    def finished() -> None:
        work()
        if ON_GPU:
            torch.cuda.synchronize()

    benchmark.group = cell.table
    benchmark.extra_info.update(row=cell.row, column=cell.column, amount=cell.amount, unit=cell.unit)
    benchmark.pedantic(finished, rounds=rounds or _enough_rounds(finished), warmup_rounds=1)
    if ON_GPU:
        benchmark.extra_info["work_space_mib"] = _work_space(finished)
        timed, reason = _captured(work)
        if reason:
            benchmark.extra_info["not_captured"] = reason
        benchmark.extra_info["device_ms"] = _device_time(timed)


def _enough_rounds(finished: Callable[[], None]) -> int:
    """So many that they take LEAST_SECONDS, judged by the second call."""
    finished()
    start = time.perf_counter()
    finished()
    return max(LEAST_ROUNDS, math.ceil(LEAST_SECONDS / (time.perf_counter() - start)))


def _work_space(finished: Callable[[], None]) -> float:
    """MiB that `finished` allocates at its peak, beyond what was there before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    finished()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _captured(work: Callable[[], object]) -> tuple[Callable[[], object], str]:
    """`work` as the replay of a CUDA graph and ""; or `work` itself and why it cannot be captured.

    The stream is the current one: a backward pass runs on the stream of its forward, which may lie behind us. Work
    that waits for the device is found out without a capture, since a failed one leaves PyTorch's allocator and
    generators in the midst of it.
    """
    reason = _why_it_waits(work)
    if reason:
        return work, reason
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work()
    except RuntimeError as error:
        _failed.append(graph)
        torch.cuda.synchronize()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())  # a clone is not in the midst of a capture
        torch.cuda.manual_seed(0)
        # Ending an invalid capture fails in its turn; the first error is the one that tells.
        return work, _first_line(error.__context__ or error)
    return graph.replay, ""


def _why_it_waits(work: Callable[[], object]) -> str:
    """What PyTorch says where `work` waits for the device; empty where it does not."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        return _first_line(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    return ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _device_time(work: Callable[[], object]) -> float:
    """Median milliseconds between CUDA events around each call."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPLAYS)]
    for start, stop in events:
        start.record()
        work()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in events)
