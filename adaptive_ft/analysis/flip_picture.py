"""The picture of flipped decisions: the change of the loss that the gate gradient predicts, against the true one."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptive_ft.analysis.drawing import FAINT, INK, NORMAL, SMALL, TRAIN_COLOUR, empty_figure, plain_axis
from adaptive_ft.analysis.flips import ALL, ORIGINAL, PREDICTED, TRUE, Agreement, Flips, Floats

_PREDICTED_BY = {PREDICTED: "predicted: (1 − 2g) dL/dg", ORIGINAL: "predicted by the original's form"}


def predicted_and_true(flips: Flips) -> Figure:
    """A panel for each kind of decision, a dot for each pair of a sample and a decision, on the line where both are
    equal; a row of panels for each gradient that predicts.
    """
    by_kind, told = flips.by_kind(), flips.agreements()
    kinds = [kind for kind in by_kind if kind != ALL] or [ALL]
    ways = [way for way in flips.changes if way != TRUE]
    figure = empty_figure(0.5 + 2.7 * len(kinds), 3.3 * len(ways))
    rows = figure.subplots(len(ways), len(kinds), squeeze=False)
    for way, axes in zip(ways, rows, strict=True):
        for axis, kind in zip(axes, kinds, strict=True):
            _draw(axis, by_kind[kind][way], by_kind[kind][TRUE])
            name = kind if kind != ALL else f"every {flips.kinds[0]}"
            axis.set_title(name, loc="left", fontsize=NORMAL, color=INK, fontweight="bold", pad=22)
            found = correlations(told[way, TRUE][kind])
            axis.text(0, 1.03, found, transform=axis.transAxes, fontsize=SMALL, color=FAINT, va="bottom")
            axis.set_xlabel(_PREDICTED_BY[way], fontsize=SMALL, color=FAINT)
        axes[0].set_ylabel("true change of the loss", fontsize=SMALL, color=FAINT)
    return figure


def correlations(found: Agreement) -> str:
    """The agreement in one line."""
    named = {"Pearson": found.pearson, "Spearman": found.spearman}
    numbers = ", ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in named.items())
    return f"{found.pairs:,} pairs: {numbers}"


def _draw(axis: Axes, predicted_P: Floats, change_P: Floats) -> None:
    axis.scatter(predicted_P, change_P, s=5, color=TRAIN_COLOUR, alpha=0.35, linewidths=0, zorder=2)
    ends = [float(np.minimum(predicted_P, change_P).min()), float(np.maximum(predicted_P, change_P).max())]
    axis.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle=":", zorder=1)
    axis.locator_params(nbins=5)
    plain_axis(axis, "both")
