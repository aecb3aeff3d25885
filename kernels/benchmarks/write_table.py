"""Turns the report of pytest-benchmark into one dated Markdown file of tables, and prints it.

    python kernels/benchmarks/write_table.py build/benchmarks.json docs/benchmarks

The file is named after the day and the machine. Every benchmark says in its extra_info in which row and column
it stands (measuring.py); a table is a group, and the ratios in parentheses are to its first column.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def document(report: Record) -> str:
    """The whole Markdown file: what was measured on what, then the tables."""
    tables: dict[str, list[Record]] = {}
    for record in report["benchmarks"]:
        tables.setdefault(record["group"], []).append(record)
    # Whole models first: they are what a reader came for.
    order = sorted(tables, key=lambda title: not _is_model(tables[title]))
    return "\n".join([_heading(report), *(_section(title, tables[title]) for title in order)])


def file_name(report: Record) -> str:
    """YYYY-MM-DD-machine.md."""
    words = re.sub(r"[^a-z0-9]+", "-", _machine(report).lower()).strip("-")
    return f"{report['datetime'][:10]}-{words}.md"


def _machine(report: Record) -> str:
    info = report["machine_info"]
    if info["adaptive_ft"]["gpu"]:
        return str(info["adaptive_ft"]["gpu"])
    return f"CPU {info['cpu'].get('brand_raw', info['machine'])}"


def _heading(report: Record) -> str:
    info, commit = report["machine_info"], report["commit_info"]
    ours, cpu = info["adaptive_ft"], info["cpu"]
    versions = {"Python": info["python_version"], **ours["versions"]}
    said = ", ".join(f"{name} {version or 'absent'}" for name, version in versions.items())
    changes = ", with local changes" if commit.get("dirty") else ""
    measured = (
        "median device time by CUDA events (replays of a CUDA graph; * where none could be captured)"
        if ours["gpu"]
        else f"best wall time of some rounds, {ours['threads']} of {cpu.get('count', '?')} cores"
    )
    return "\n".join(
        [
            f"# Benchmarks, {_machine(report)}, {report['datetime'][:10]}",
            "",
            f"Commit {str(commit.get('id', 'unknown'))[:7]}{changes}, run at {report['datetime'][11:16]} UTC. {said}.",
            "",
            f"{ours['dtype']}, {ours['path']} path, {measured}. In parentheses the ratio to the first column.",
            "Made by `make bench` (kernels/benchmarks): random data, fixed seeds.",
            "",
        ]
    )


def _is_model(records: list[Record]) -> bool:
    return any(record["fullname"].startswith("bench_model") for record in records)


def _section(title: str, records: list[Record]) -> str:
    """A table of times and, where it was measured, of peak memory."""
    rows = _rows(records, _milliseconds, _with_rate)
    memory = _rows([record for record in records if _memory(record)], _memory, lambda _, mib: f"{mib:,.0f} MiB")
    kinds = {"time": rows, "peak memory": memory}
    lines = [f"## {title}", ""]
    columns = list(dict.fromkeys(record["extra_info"]["column"] for record in records))
    lines += [_line(["", *columns]), _line(["---", *["---:"] * len(columns)])]
    for kind, found in kinds.items():
        for name, cells in found.items():
            label = f"{name}, {kind}" if memory else name
            lines.append(_line([label, *(cells.get(column, "–") for column in columns)]))
    return "\n".join([*lines, ""])


def _rows(
    records: list[Record], value_of: Callable[[Record], float], spell: Callable[[Record, float], str]
) -> dict[str, dict[str, str]]:
    """Row name -> column -> text: the value and its ratio to the first column of the row."""
    rows: dict[str, dict[str, str]] = {}
    first: dict[str, float] = {}
    for record in records:
        row, column = record["extra_info"]["row"], record["extra_info"]["column"]
        value = value_of(record)
        text = spell(record, value)
        # Where a rate is told, columns are different work: a ratio of times would say nothing.
        if row in first and record["extra_info"]["amount"] is None:
            text += f" ({value / first[row]:.2f})"
        first.setdefault(row, value)
        rows.setdefault(row, {})[column] = text
    return rows


def _milliseconds(record: Record) -> float:
    return float(record["extra_info"].get("device_ms", record["stats"]["min"] * 1e3))


def _memory(record: Record) -> float:
    return float(record["extra_info"].get("peak_mib", 0))


def _with_rate(record: Record, milliseconds: float) -> str:
    extra = record["extra_info"]
    mark = "" if extra.get("captured", True) else "*"
    text = f"{milliseconds / 1e3:.2f} s" if milliseconds >= 1000 else f"{_three_digits(milliseconds)} ms"
    rate = "" if extra["amount"] is None else f", {extra['amount'] / milliseconds * 1e3:,.0f} {extra['unit']}/s"
    return f"{text}{mark}{rate}"


def _three_digits(number: float) -> str:
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(source: Path, folder: Path) -> None:
    report = json.loads(source.read_text(encoding="utf-8"))
    text = document(report)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(report)
    path.write_text(text, encoding="utf-8")
    print(f"{text}\nWritten to {path}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
