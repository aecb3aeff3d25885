"""The picture of a comparison: a line per row of its table, every seed a dot, the mean a mark.

Shapes: R rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adaptive_ft.analysis.comparison import ComparedRow, Comparison, SeedRun
from adaptive_ft.analysis.drawing import (
    FAINT,
    GAP_COLOUR,
    INK,
    NORMAL,
    SMALL,
    TRAIN_COLOUR,
    VAL_COLOUR,
    empty_figure,
    plain_axis,
)

Value = Callable[[SeedRun], float | None]
_SPREAD = 0.36  # of a row's height over which its seeds stand apart, so that equal ones are seen


def compared_rows(comparison: Comparison) -> Figure:
    """Score and gap for each validation set, and the tuned share, in panels that share the rows of the table.

    Scores, gaps and shares are drawn in percent. Every seed is a dot, those of a row one below the other in their
    order; the mean is an upright mark. Where the comparison has a reference with finished runs, a dotted line stands at
    its mean. A row without runs keeps its line.
    """
    panels = list(_panels(comparison))
    names = [row.name for row in comparison.rows]
    width = 0.6 + 0.075 * max(map(len, names)) + 2.1 * len(panels)
    figure = empty_figure(width, 1.25 + 0.3 * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, colour, value) in zip(axes, panels, strict=True):
        _draw_panel(axis, comparison, value, colour)
        axis.set_title(title, loc="left", fontsize=NORMAL, color=INK, fontweight="bold", pad=8)
        plain_axis(axis, "both")
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].tick_params(axis="y", labelcolor=INK, labelsize=NORMAL)
    _draw_legend(figure, comparison.reference)
    return figure


def _panels(comparison: Comparison) -> Iterator[tuple[str, str, Value]]:
    """Title, colour and number of each panel."""
    for name in comparison.validation:
        yield f"Val {name} (%)", VAL_COLOUR, lambda run, name=name: run.scores[name]  # type: ignore[misc]
        yield f"Gap {name} (points)", GAP_COLOUR, lambda run, name=name: run.gaps[name]  # type: ignore[misc]
    yield "Tuned (%)", TRAIN_COLOUR, lambda run: run.tuned


def _draw_panel(axis: Axes, comparison: Comparison, value: Value, colour: str) -> None:
    for place, row in enumerate(comparison.rows):
        values = _percents(row, value)
        if not values:
            continue
        if row.name == comparison.reference:
            axis.axvline(statistics.fmean(values), color=FAINT, linewidth=0.9, linestyle=":", zorder=1)
        heights = [place + _SPREAD * (2 * (number + 1) / (len(values) + 1) - 1) for number in range(len(values))]
        axis.scatter(values, heights, s=16, color=colour, alpha=0.75, linewidths=0, zorder=2)
        axis.plot(
            [statistics.fmean(values)], [place], marker="|", color=INK, markersize=13, markeredgewidth=1.4, zorder=3
        )
    axis.margins(x=0.08)


def _percents(row: ComparedRow, value: Value) -> Sequence[float]:
    found = [value(run) for run in row.runs]
    return [100 * number for number in found if number is not None]


def _draw_legend(figure: Figure, reference: str | None) -> None:
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=4, color=FAINT, label="a seed"),
        Line2D([], [], linestyle="", marker="|", markersize=10, color=INK, label="mean of the seeds"),
    ]
    if reference is not None:
        handles.append(Line2D([], [], linestyle=":", linewidth=0.9, color=FAINT, label=f"mean of {reference}"))
    figure.legend(
        handles=handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=SMALL, labelcolor=FAINT
    )
