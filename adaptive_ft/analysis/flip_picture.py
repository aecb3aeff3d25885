"""The picture of flipped decisions: the change of the loss that the gate gradient predicts, against the true one."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptive_ft.analysis.drawing import FAINT, INK, NORMAL, SMALL, TRAIN_COLOUR, empty_figure, plain_axis
from adaptive_ft.analysis.flips import ALL, PREDICTED, TRUE, TWO_BRANCH, Agreement, Flips, Floats

_PREDICTED_BY = {PREDICTED: "predicted: (1 − 2g) dL/dg", TWO_BRANCH: "predicted by both branches"}


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
            axis.set_title(name, loc="left", fontsize=NORMAL, color=INK, fontweight="bold", pad=32)
            found = told[way, TRUE][kind]
            text = f"{_of_all_pairs(found)}\n{_within_a_sample(found)}"
            axis.text(0, 1.03, text, transform=axis.transAxes, fontsize=SMALL, color=FAINT, va="bottom")
            axis.set_xlabel(_PREDICTED_BY[way], fontsize=SMALL, color=FAINT)
        axes[0].set_ylabel("true change of the loss", fontsize=SMALL, color=FAINT)
    return figure


def correlations(found: Agreement) -> str:
    """The agreement in one line."""
    return f"{_of_all_pairs(found)}; {_within_a_sample(found)}"


def _of_all_pairs(found: Agreement) -> str:
    return f"{found.pairs:,} pairs: Pearson {_number(found.pearson)}, Spearman {_number(found.spearman)}"


def _within_a_sample(found: Agreement) -> str:
    deviation = "" if found.within_deviation is None else f" ± {found.within_deviation:.3f}"
    return f"within a sample {_number(found.within)}{deviation}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _draw(axis: Axes, predicted_NK: Floats, change_NK: Floats) -> None:
    predicted_P, change_P = predicted_NK.ravel(), change_NK.ravel()
    axis.scatter(predicted_P, change_P, s=5, color=TRAIN_COLOUR, alpha=0.35, linewidths=0, zorder=2)
    ends = [float(np.minimum(predicted_P, change_P).min()), float(np.maximum(predicted_P, change_P).max())]
    axis.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle=":", zorder=1)
    axis.locator_params(nbins=5)
    plain_axis(axis, "both")
