"""The picture of what a comparison is about: the score of every row against its gap, a panel per validation set.

A row that is above and to the left of another has the better of both. Shapes: R rows.
"""

from __future__ import annotations

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adaptive_ft.analysis.comparison import ComparedRow, Comparison
from adaptive_ft.analysis.drawing import (
    FAINT,
    INK,
    NORMAL,
    PLAIN_COLOUR,
    POLICY_COLOUR,
    REFERENCE_COLOUR,
    SMALL,
    empty_figure,
    plain_axis,
)

_ROWS_PER_INCH = 5.0


def score_against_gap(comparison: Comparison) -> Figure:
    """Points (gap, validation score) in percent: the seeds small, each on a line to the mean of its row, which is large
    with the row's number; the names of the R rows beside the panels; coloured by whether there is a policy, and the
    reference by itself. A row without runs has no point.
    """
    rows = {number: row for number, row in enumerate(comparison.rows, start=1) if row.runs}
    names = max(len(row.name) for row in comparison.rows)
    width = 3.6 * len(comparison.validation) + 0.6 + 0.075 * names
    figure = empty_figure(width, max(3.3, 0.8 + len(rows) / _ROWS_PER_INCH))
    axes = figure.subplots(1, len(comparison.validation), squeeze=False)[0]
    for axis, name in zip(axes, comparison.validation, strict=True):
        for number, row in rows.items():
            _draw_row(axis, number, row, name, _colour(row, comparison))
        axis.set_title(f"Val {name} (%)", loc="left", fontsize=NORMAL, color=INK, fontweight="bold", pad=8)
        axis.set_xlabel(f"Gap {name} (points)", fontsize=SMALL, color=FAINT)
        axis.margins(0.08)
        plain_axis(axis, "both")
    handles = [_key(f"{number}  {row.name}", _colour(row, comparison)) for number, row in rows.items()]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=SMALL, labelcolor=INK)
    return figure


def _draw_row(axis: Axes, number: int, row: ComparedRow, validation: str, colour: str) -> None:
    gaps = [100 * run.gaps[validation] for run in row.runs]
    scores = [100 * run.scores[validation] for run in row.runs]
    mean = statistics.fmean(gaps), statistics.fmean(scores)
    for gap, score in zip(gaps, scores, strict=True):
        axis.plot([mean[0], gap], [mean[1], score], color=colour, linewidth=0.7, alpha=0.4, zorder=2)
    axis.scatter(gaps, scores, s=11, color=colour, linewidths=0, zorder=2)
    above = 3 + number / 1000  # of two marks that overlap the later covers the number of the earlier
    axis.plot(*mean, marker="o", markersize=11, color=colour, markeredgecolor="white", zorder=above)
    told = axis.text(*mean, str(number), ha="center", va="center_baseline", fontsize=SMALL - 1, color="white")
    told.set(fontweight="bold", zorder=above)


def _colour(row: ComparedRow, comparison: Comparison) -> str:
    if row.name == comparison.reference:
        return REFERENCE_COLOUR
    return PLAIN_COLOUR if row.runs[0].policy is None else POLICY_COLOUR


def _key(label: str, colour: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", markersize=5, color=colour, label=label)
