"""What a comparison leaves in its folder: the table as Markdown, CSV and JSON, and every run as CSV."""

from __future__ import annotations

from pathlib import Path

from adaptive_ft.analysis.comparison import Comparison, as_markdown, cells, header, row_numbers, run_numbers
from adaptive_ft.analysis.report.compared_table import ComparedTable
from adaptive_ft.analysis.report.page import write_csv
from adaptive_ft.whole_files import write_whole


def write_comparison(comparison: Comparison, folder: Path) -> ComparedTable:
    """comparison.md, comparison.csv (a line per row), comparison_runs.csv (a line per run), comparison.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "comparison.md", as_markdown(comparison))
    for name, lines in (("comparison", row_numbers(comparison)), ("comparison_runs", run_numbers(comparison))):
        if lines:
            write_csv(folder / f"{name}.csv", tuple(lines[0]), lines)
    table = ComparedTable(header(comparison), cells(comparison), list(comparison.notes))
    table.save(folder)
    return table
