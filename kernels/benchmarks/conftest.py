"""What every benchmark runs under: fixed seeds, one CUDA stream, and what the table says about the machine."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from adaptive_ft_kernels import path_on
from measuring import DEVICE, DTYPE, ON_GPU


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Adds to the report what the table needs beside pytest-benchmark's own facts."""
    machine_info["adaptive_ft"] = {
        "gpu": torch.cuda.get_device_name() if ON_GPU else None,
        "dtype": str(DTYPE).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "path": path_on(DEVICE),
        "versions": {name: _version(name) for name in ("torch", "triton", "transformers")},
    }


@pytest.fixture(scope="session")
def stream() -> torch.cuda.Stream | None:
    """The one stream of all benchmarks: memory that one stream has freed is not reused by another."""
    return torch.cuda.Stream() if ON_GPU else None


@pytest.fixture(autouse=True)
def same_start(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Every benchmark starts from one seed, on a stream that can be captured."""
    torch.manual_seed(0)
    if stream is None:
        yield
        return
    # What wider fixtures build and free, they do on the default stream; so each waits for the other.
    stream.wait_stream(torch.cuda.current_stream())
    # A backward pass runs on the stream of its forward, and the default one cannot be captured in a graph.
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
