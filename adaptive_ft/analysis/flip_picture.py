"""The picture of flipped decisions: the change of the loss that the gate gradient predicts, against the true one."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptive_ft.analysis.drawing import FAINT, INK, NORMAL, SMALL, TRAIN_COLOUR, empty_figure, plain_axis
from adaptive_ft.analysis.flips import ALL, Agreement, Flips, Floats


def predicted_and_true(flips: Flips) -> Figure:
    """A panel for each kind of decision, a dot for each pair of a sample and a decision, on the line where both are
    equal.
    """
    panels = flips.by_kind()
    kinds = [kind for kind in panels if kind != ALL] or [ALL]
    told = flips.agreements()
    figure = empty_figure(0.5 + 2.7 * len(kinds), 3.3)
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        _draw(axis, *panels[kind])
        name = kind if kind != ALL else f"every {flips.kinds[0]}"
        axis.set_title(name, loc="left", fontsize=NORMAL, color=INK, fontweight="bold", pad=22)
        axis.text(0, 1.03, correlations(told[kind]), transform=axis.transAxes, fontsize=SMALL, color=FAINT, va="bottom")
        axis.set_xlabel("predicted: (1 − 2g) dL/dg", fontsize=SMALL, color=FAINT)
    axes[0].set_ylabel("true change of the loss", fontsize=SMALL, color=FAINT)
    return figure


def correlations(found: Agreement) -> str:
    """The agreement in one line."""
    named = {"Pearson": found.pearson, "Spearman": found.spearman}
    numbers = ", ".join(f"{name} {'–' if value is None else f'{value:.2f}'}" for name, value in named.items())
    return f"{found.pairs:,} pairs: {numbers}"


def _draw(axis: Axes, predicted_P: Floats, change_P: Floats) -> None:
    axis.scatter(predicted_P, change_P, s=5, color=TRAIN_COLOUR, alpha=0.35, linewidths=0, zorder=2)
    ends = [float(np.minimum(predicted_P, change_P).min()), float(np.maximum(predicted_P, change_P).max())]
    axis.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle=":", zorder=1)
    axis.locator_params(nbins=5)
    plain_axis(axis, "both")
