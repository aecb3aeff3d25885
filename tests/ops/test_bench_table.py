"""The table of the benchmarks: from a small report of pytest-benchmark to Markdown."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def write_table(repository: Path) -> ModuleType:
    path = repository / "kernels" / "benchmarks" / "write_table.py"
    spec = importlib.util.spec_from_file_location("write_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(table: str, row: str, column: str, seconds: float, **extra: Any) -> dict[str, Any]:
    return {
        "group": table,
        "fullname": f"bench_{table}.py::test",
        "stats": {"min": seconds},
        "extra_info": {"row": row, "column": column, "amount": None, "unit": "GFLOP", **extra},
    }


def report(*records: dict[str, Any], gpu: str | None = None, dirty: bool = False) -> dict[str, Any]:
    return {
        "datetime": "2031-02-03T04:05:06.7+00:00",
        "commit_info": {"id": "0123456789abcdef", "dirty": dirty},
        "machine_info": {
            "python_version": "3.11.7",
            "machine": "x86_64",
            "cpu": {"brand_raw": "Some CPU @ 2 GHz", "count": 2},
            "adaptive_ft": {
                "gpu": gpu,
                "dtype": "float32",
                "threads": 1,
                "path": "torch",
                "versions": {"torch": "2.13.0", "triton": None},
            },
        },
        "benchmarks": list(records),
    }


def test_rows_columns_and_ratios_to_the_first_column(write_table: ModuleType) -> None:
    text = write_table.document(
        report(
            record("product", "half tuned", "dense", 0.010),
            record("product", "all tuned", "dense", 0.020),
            record("product", "half tuned", "ours", 0.015),
            record("product", "half tuned", "two branches", 2.0),
        )
    )
    assert "## product" in text
    assert "|  | dense | ours | two branches |" in text
    assert "| half tuned | 10.0 ms | 15.0 ms (1.50) | 2.00 s (200.00) |" in text
    assert "| all tuned | 20.0 ms | – | – |" in text


def test_models_come_first_with_their_memory(write_table: ModuleType) -> None:
    text = write_table.document(
        report(
            record("product", "half tuned", "dense", 0.010),
            record("model", "step", "ordinary", 1.5, process_peak_mib=2000),
            record("model", "step", "ours", 1.2, process_peak_mib=3000),
        )
    )
    assert text.index("## model") < text.index("## product")
    assert "| step, time | 1.50 s | 1.20 s (0.80) |" in text
    assert "| step, peak memory of the process | 2,000 MiB | 3,000 MiB (1.50) |" in text


def test_work_space_and_memory_of_the_process_are_two_rows(write_table: ModuleType) -> None:
    text = write_table.document(report(record("model", "step", "ours", 1.2, work_space_mib=0, process_peak_mib=3000)))
    assert "| step, work space | 0 MiB |" in text
    assert "| step, peak memory of the process | 3,000 MiB |" in text


def test_no_ratio_to_nothing(write_table: ModuleType) -> None:
    text = write_table.document(
        report(
            record("product", "row", "dense", 1.0, work_space_mib=0),
            record("product", "row", "ours", 1.0, work_space_mib=7),
        )
    )
    assert "| row, work space | 0 MiB | 7 MiB |" in text


def test_a_rate_takes_the_place_of_the_ratio(write_table: ModuleType) -> None:
    text = write_table.document(
        report(
            record("machine", "640 rows", "small", 0.010, amount=2.0),
            record("machine", "640 rows", "large", 0.040, amount=8.0),
        )
    )
    assert "| 640 rows | 10.0 ms, 200 GFLOP/s | 40.0 ms, 200 GFLOP/s |" in text


def test_on_a_gpu_the_device_time_counts(write_table: ModuleType) -> None:
    made = report(
        record("product", "half tuned", "dense", 9.0, device_ms=0.02),
        record("product", "half tuned", "ours", 9.0, device_ms=0.03, not_captured="it waits"),
        gpu="NVIDIA H100",
    )
    text = write_table.document(made)
    assert "| half tuned | 0.02 ms | 0.03 ms* (1.50) |" in text
    assert text.count("\\* not captured: it waits") == 1
    assert write_table.file_name(made) == "2031-02-03-nvidia-h100.md"


@pytest.mark.parametrize("dirty", [False, True])
def test_the_heading_says_what_ran_where(write_table: ModuleType, dirty: bool) -> None:
    text = write_table.document(report(record("product", "row", "dense", 1.0), dirty=dirty))
    assert text.startswith("# Benchmarks, CPU Some CPU @ 2 GHz, 2031-02-03\n")
    assert "Commit 0123456" in text
    assert ("with local changes" in text) == dirty
    assert "run at 04:05 UTC. Python 3.11.7, torch 2.13.0, triton absent." in text
    assert "mirror policy" in text
    assert "the optimizer's step is left out" in text
    assert "float32, torch path, best wall time of some rounds, 1 of 2 cores" in text


def test_the_file_is_written_and_printed(
    write_table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = tmp_path / "report.json", tmp_path / "docs" / "benchmarks"
    source.write_text(json.dumps(report(record("product", "row", "dense", 1.0))))
    write_table.main(source, folder)
    written = (folder / "2031-02-03-cpu-some-cpu-2-ghz.md").read_text()
    assert "| row | 1.00 s |" in written
    assert written in capsys.readouterr().out
