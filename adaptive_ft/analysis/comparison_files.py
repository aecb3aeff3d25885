"""What a comparison leaves in its folder: the table as Markdown, CSV and JSON, every run as CSV, and two figures."""

from __future__ import annotations

from pathlib import Path

from adaptive_ft.analysis.comparison import Comparison, as_markdown, cells, header, row_numbers, run_numbers
from adaptive_ft.analysis.comparison_picture import compared_rows
from adaptive_ft.analysis.pictures import save_figure
from adaptive_ft.analysis.report.compared_table import FIGURE, ComparedTable
from adaptive_ft.analysis.tradeoff_picture import score_against_gap
from adaptive_ft.whole_files import write_csv, write_whole

TRADEOFF = "tradeoff.png"


def write_comparison(comparison: Comparison, folder: Path) -> ComparedTable:
    """comparison.md, comparison.csv (a line per row), comparison_runs.csv (a line per run), comparison.png,
    tradeoff.png and comparison.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "comparison.md", as_markdown(comparison))
    for name, lines in (("comparison", row_numbers(comparison)), ("comparison_runs", run_numbers(comparison))):
        if lines:
            write_csv(folder / f"{name}.csv", tuple(lines[0]), lines)
    save_figure(compared_rows(comparison), folder / FIGURE)
    save_figure(score_against_gap(comparison), folder / TRADEOFF)
    drawn = (folder / FIGURE).read_bytes()
    table = ComparedTable(header(comparison), cells(comparison), list(comparison.notes), drawn)
    table.save(folder)
    return table
