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
# What a row of memory is called -> where its number stands in extra_info.
MEMORY = {"work space": "work_space_mib", "peak memory of the process": "process_peak_mib"}
# What the names of rows and columns leave unsaid.
COMPARED = (
    "*ordinary*: the same layer or model without gates, all of whose weights train. *two branches*: both branches "
    "computed in full and mixed by the gates; in LXMERT with the mirror policy besides, a second backbone, as in the "
    "method's first code, where *adaptive* has the light policy: that table compares whole ways of fine-tuning, not "
    "the layers alone. The encoder of VL-BERT's size has random gates and no policy, and in BlockDrop's table each "
    "sample uses random layers of its own. *training step*: forward and backward; the optimizer's step is left out. "
    "*peak memory of the process*: of one such step and its model in a fresh process, on a CPU without what the "
    "libraries take. *work space*: what one call allocates beyond what was there before."
)


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
            COMPARED,
            "",
        ]
    )


def _is_model(records: list[Record]) -> bool:
    return any(record["fullname"].startswith(("bench_model", "bench_blockdrop")) for record in records)


def _section(title: str, records: list[Record]) -> str:
    """A table of times and, where they were measured, of the two kinds of memory."""
    kinds = {"time": _rows(records, _milliseconds, _with_rate)}
    kinds |= {label: _memory_rows(records, key) for label, key in MEMORY.items()}
    several = sum(map(bool, kinds.values())) > 1
    lines = [f"## {title}", ""]
    columns = list(dict.fromkeys(record["extra_info"]["column"] for record in records))
    lines += [_line(["", *columns]), _line(["---", *["---:"] * len(columns)])]
    for kind, found in kinds.items():
        for name, cells in found.items():
            label = f"{name}, {kind}" if several else name
            lines.append(_line([label, *(cells.get(column, "–") for column in columns)]))
    reasons = dict.fromkeys(filter(None, (record["extra_info"].get("not_captured") for record in records)))
    lines += [f"\n\\* not captured: {reason}" for reason in reasons]
    return "\n".join([*lines, ""])


def _memory_rows(records: list[Record], key: str) -> dict[str, dict[str, str]]:
    measured = [record for record in records if key in record["extra_info"]]
    return _rows(measured, lambda record: float(record["extra_info"][key]), lambda _, mib: f"{mib:,.0f} MiB")


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
        if first.get(row) and record["extra_info"]["amount"] is None:
            text += f" ({value / first[row]:.2f})"
        first.setdefault(row, value)
        rows.setdefault(row, {})[column] = text
    return rows


def _milliseconds(record: Record) -> float:
    return float(record["extra_info"].get("device_ms", record["stats"]["min"] * 1e3))


def _with_rate(record: Record, milliseconds: float) -> str:
    extra = record["extra_info"]
    mark = "*" if "not_captured" in extra else ""
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
