"""Pictures of a run: which components were tuned how often, how scores and loss moved; their data as CSV.

Shapes: C components of a model, L layers (rows) and P places (columns) of one panel.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from torch import Tensor

from adaptive_ft.analysis.drawing import (
    FAINT,
    GAP_COLOUR,
    INK,
    LARGE,
    NORMAL,
    SMALL,
    TRAIN_COLOUR,
    VAL_COLOUR,
    empty_figure,
    plain_axis,
)
from adaptive_ft.analysis.panels import Panel, Span, panels
from adaptive_ft.components import ComponentMap
from adaptive_ft.whole_files import write_whole

# Perceptually uniform, light = frozen, dark = tuned, like the original's rocket_r.
_SHARE_COLOURS = colormaps["magma_r"]
_DEAD_STYLE: dict[str, Any] = {
    "facecolor": "#eef0f2",
    "edgecolor": "#9aa3ab",
    "hatch": "/////",
    "linewidth": 0,
}
_INCHES_PER_LETTER = 0.06  # at the small font size
_INCHES_PER_CELL = 0.27


def usage_heatmap(shares: Tensor | Sequence[float], components: ComponentMap, title: str) -> Figure:
    """Layer x component picture of tuned shares; dark = tuned for more samples, hatched = dead component.

    `shares` [C] in [0, 1] in the order of `components` (UsageMeter.component_shares). One panel per group of
    layers with the same components: 14 x 15 and 5 x 43 for LXMERT at base size, as in the original's plots.
    Raises ValueError when the number of shares is not the number of components.
    """
    shares_C, live_C = _checked(shares, components), np.array(components.live)
    parts = panels(components)
    heights = [len(panel.layers) for panel in parts]
    widest = max(len(panel.places) for panel in parts)
    figure = empty_figure(
        width=max(8.5, 2.2 + _INCHES_PER_CELL * widest),
        height=1.1 + sum(1.1 + _INCHES_PER_CELL * rows for rows in heights),
    )
    axes = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, panel in zip(axes, parts, strict=True):
        _draw_cells(axis, shares_C[panel.columns_LP], live_C[panel.columns_LP])
        _label_rows(axis, panel)
        _label_columns(axis, panel, room=0.8 * figure.get_figwidth() / len(panel.places))
        for span in panel.spans:
            _draw_span(axis, span, figure)
    _draw_legend(figure, list(axes), any_dead=not live_C.all())
    figure.suptitle(title, fontsize=LARGE, color=INK, fontweight="bold")
    return figure


def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Train and validation score, their gap, and the loss, over the epochs of `history`.

    Every record holds epoch (1-based), train_score and val_score (shares in [0, 1]) and loss; scores are
    drawn in percent. Raises ValueError for an empty history or a record without one of these.
    """
    epochs, loss = _series(history, "epoch"), _series(history, "loss")
    train, val = 100 * _series(history, "train_score"), 100 * _series(history, "val_score")
    figure = empty_figure(width=11.5, height=3.7)
    score_axis, gap_axis, loss_axis = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    score_axis.fill_between(epochs, train, val, color=GAP_COLOUR, alpha=0.13, linewidth=0)
    _draw_line(score_axis, epochs, train, TRAIN_COLOUR, "train")
    _draw_line(score_axis, epochs, val, VAL_COLOUR, "validation")
    score_axis.legend(frameon=False, fontsize=NORMAL, labelcolor=INK, loc="best")
    gap_axis.axhline(0, color=FAINT, linewidth=0.8)
    _draw_line(gap_axis, epochs, train - val, GAP_COLOUR, "gap")
    _draw_line(loss_axis, epochs, loss, TRAIN_COLOUR, "loss", decimals=3)
    for axis, title in (
        (score_axis, "Score (%)"),
        (gap_axis, "Gap: train − validation (points)"),
        (loss_axis, "Training loss"),
    ):
        _finish_curve_axis(axis, title, epochs)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as PNG; the file appears whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    _write(path, buffer.getvalue())


def save_usage_csv(shares: Tensor | Sequence[float], components: ComponentMap, path: Path) -> None:
    """Write the data of a heatmap: one line per component: layer, part, head, live, tuned share."""
    rows = zip(components, components.live, _checked(shares, components).tolist(), strict=True)
    _save_csv(
        ("component", "layer", "part", "head", "live", "tuned_share"),
        ((c.name, c.layer, c.part, c.head, int(live), share) for c, live, share in rows),
        path,
    )


def save_history_csv(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the data of the curves: one line per epoch with epoch, loss, train_score, val_score and gap."""
    names = ("epoch", "loss", "train_score", "val_score")
    columns = [_series(history, name).tolist() for name in names]
    rows = ((int(epoch), loss, train, val, train - val) for epoch, loss, train, val in zip(*columns, strict=True))
    _save_csv((*names, "gap"), rows, path)


def _save_csv(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    _write(path, text.getvalue().encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def _checked(shares: Tensor | Sequence[float], components: ComponentMap) -> NDArray[np.float64]:
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (len(components),):
        raise ValueError(
            f"one share per component is needed: the model has {len(components)} components, "
            f"the shares have shape {values.shape}"
        )
    return values


def _draw_cells(axis: Axes, shares_LP: NDArray[np.float64], live_LP: NDArray[np.bool_]) -> None:
    axis.pcolormesh(
        np.ma.masked_where(~live_LP, shares_LP),
        cmap=_SHARE_COLOURS, vmin=0.0, vmax=1.0, edgecolors="white", linewidth=0.7,
    )  # fmt: skip
    for row, column in np.argwhere(~live_LP):
        axis.add_patch(Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, **_DEAD_STYLE))
    axis.set_xlim(0, shares_LP.shape[1])
    axis.set_ylim(shares_LP.shape[0], 0)
    axis.tick_params(length=0, labelsize=SMALL, labelcolor=INK, pad=4)
    axis.spines[:].set_visible(False)


def _label_rows(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title, loc="left", fontsize=NORMAL + 1, color=INK, fontweight="bold", pad=24)
    axis.set_yticks(np.arange(len(panel.layers)) + 0.5, [layer.replace(".", " ") for layer in panel.layers])
    for row in panel.boundaries:
        axis.axhline(row, color="white", linewidth=3)


def _label_columns(axis: Axes, panel: Panel, room: float) -> None:
    """Names under the columns; words stand upright where the `room` of a column (inches) is too narrow."""
    labels = panel.labels
    axis.set_xticks(np.arange(len(labels)) + 0.5, labels)
    if room < _INCHES_PER_LETTER * max(map(len, labels)):
        for label in axis.get_xticklabels():
            label.set_rotation(0 if label.get_text().isdigit() else 90)


def _draw_span(axis: Axes, span: Span, figure: Figure) -> None:
    """A gap before the span and, over a long one, a bracket with its name."""
    if span.start:
        axis.axvline(span.start, color="white", linewidth=3)
    if not span.bracketed:
        return
    above = axis.get_xaxis_transform()
    lifted = above + ScaledTranslation(0, 4 / 72, figure.dpi_scale_trans)
    ends = [span.start + 0.1, span.stop - 0.1]
    axis.plot(ends, [1, 1], color=FAINT, linewidth=0.9, clip_on=False, transform=lifted)
    axis.annotate(
        span.name, ((span.start + span.stop) / 2, 1.0), xycoords=above, xytext=(0, 6.5),
        textcoords="offset points", ha="center", va="bottom", fontsize=SMALL, color=FAINT,
    )  # fmt: skip


def _draw_legend(figure: Figure, axes: list[Axes], any_dead: bool) -> None:
    colours = ScalarMappable(Normalize(0.0, 1.0), _SHARE_COLOURS)
    bar = figure.colorbar(colours, ax=axes, location="right", aspect=32, pad=0.015)
    bar.set_label("share of samples tuned", fontsize=NORMAL, color=INK)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 %", "25 %", "50 %", "75 %", "100 %"])
    bar.ax.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
    bar.outline.set_visible(False)
    handles = [Patch(facecolor="none", label="numbered columns: attention heads")]
    if any_dead:
        handles.append(Patch(**_DEAD_STYLE, label="dead: cannot reach the answer"))
    figure.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False, fontsize=SMALL, labelcolor=FAINT)


def _series(history: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    if not history:
        raise ValueError("there is no finished epoch, so there are no curves to draw")
    for number, record in enumerate(history):
        if record.get(name) is None:
            raise ValueError(f"record {number} of the history has no '{name}', only {sorted(record)}")
    return np.array([record[name] for record in history], dtype=np.float64)


def _draw_line(
    axis: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    colour: str,
    label: str,
    decimals: int = 1,
) -> None:
    """A line over the epochs with its last value written at the end."""
    axis.plot(x, y, color=colour, linewidth=2, marker="o", markersize=4.5, markeredgecolor="white", label=label)
    axis.annotate(
        f"{y[-1]:.{decimals}f}", (x[-1], y[-1]), xytext=(6, 0), textcoords="offset points",
        va="center", fontsize=SMALL + 0.5, color=colour,
    )  # fmt: skip


def _finish_curve_axis(axis: Axes, title: str, epochs: NDArray[np.float64]) -> None:
    axis.set_title(title, loc="left", fontsize=NORMAL + 1, color=INK, fontweight="bold", pad=8)
    axis.set_xlabel("epoch", fontsize=NORMAL, color=FAINT)
    axis.set_xlim(epochs[0] - 0.3, epochs[-1] + max(0.5, 0.14 * len(epochs)))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    plain_axis(axis)
    axis.tick_params(labelsize=SMALL + 0.5)
