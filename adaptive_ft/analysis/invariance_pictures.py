"""Pictures of shared invariances: the matrices, and what is retained by layer beside what the gates tuned there.

Shapes: L layers.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adaptive_ft.analysis.drawing import FAINT, INK, NORMAL, SMALL, empty_figure, plain_axis

Floats = NDArray[np.float64]

_COLOURS = colormaps["viridis"]
_LINES = ("#3b528b", "#d1495b", "#5c8a4f", "#8d6a9f")
_BARS = "#f0c9a0"
_NOTE_WIDTH = 110  # characters of a line below the figure


def stir_heatmaps(stir: Mapping[str, Floats], layers: Sequence[str], inverted: str) -> Figure:
    """One matrix [L, L] per judge, rows the layers that were inverted; a dot where each row is largest."""
    figure = empty_figure(1.2 + (1.4 + 0.22 * len(layers)) * len(stir), 1.5 + 0.22 * len(layers))
    axes = figure.subplots(1, len(stir), squeeze=False)[0]
    for axis, (judge, matrix_LL) in zip(axes, stir.items(), strict=True):
        axis.pcolormesh(matrix_LL, cmap=_COLOURS, vmin=0.0, vmax=1.0, edgecolors="white", linewidth=0.5)
        strongest = [int(np.nanargmax(row)) for row in matrix_LL if not np.isnan(row).all()]
        rows = [row for row, numbers in enumerate(matrix_LL) if not np.isnan(numbers).all()]
        axis.scatter(np.array(strongest) + 0.5, np.array(rows) + 0.5, s=9, color="white", zorder=3)
        axis.set(xlim=(0, matrix_LL.shape[1]), ylim=(matrix_LL.shape[0], 0), aspect="equal")
        axis.set_xticks(np.arange(len(layers)) + 0.5, _short(layers), rotation=90)
        axis.set_yticks(np.arange(len(layers)) + 0.5, _short(layers))
        axis.set_title(f"STIR({judge} | {inverted})", loc="left", fontsize=NORMAL, color=INK, fontweight="bold")
        axis.set_xlabel(f"layer of {judge}", fontsize=SMALL, color=FAINT)
        axis.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(f"inverted layer of {inverted}", fontsize=SMALL, color=FAINT)
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), _COLOURS), ax=list(axes), location="right", pad=0.015)
    bar.set_label("shared invariance", fontsize=SMALL, color=FAINT)
    bar.ax.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
    bar.outline.set_visible(False)
    return figure


def retention_and_usage(
    by_layer: Mapping[str, Floats],
    layers: Sequence[str],
    tuned: Mapping[str, float],
    notes: Sequence[str],
    unsearched_L: Floats,
) -> Figure:
    """Lines of shared invariance by layer, one per judge, above bars of the share of tuned components.

    by_layer: {judge: diagonal [L]}, the fine-tuned model first; tuned: {layer: share}, empty where nothing is gated;
    notes: lines of the caption; unsearched_L: what the fine-tuned judge gives for the starts, the floor.
    """
    figure = empty_figure(max(6.5, 2.5 + 0.45 * len(layers)), 3.9)
    axis = figure.subplots()
    if tuned:
        shares = [tuned.get(layer, 0.0) for layer in layers]
        axis.bar(np.arange(len(layers)), shares, color=_BARS, width=0.62, label="share tuned by the policy", zorder=1)
    for (judge, values_L), colour in zip(by_layer.items(), _LINES, strict=False):
        axis.plot(
            values_L, color=colour, linewidth=2, marker="o", markersize=4, markeredgecolor="white", zorder=3,
            label=f"STIR({judge} | pretrained)",
        )  # fmt: skip
    axis.plot(unsearched_L, color=FAINT, linewidth=1.2, linestyle=":", zorder=2, label="fine-tuned, without a search")
    axis.set_xticks(np.arange(len(layers)), _short(layers))
    # The biased estimator lies between 0 and 1, the unbiased one may lie below.
    axis.set_ylim(min(0.0, float(np.nanmin([unsearched_L, *by_layer.values()]))), 1.02)
    axis.set_title("Invariances retained, and what was tuned", loc="left", fontsize=11, color=INK, fontweight="bold")
    lines = [line for note in notes for line in textwrap.wrap(note, _NOTE_WIDTH)]
    axis.set_xlabel("\n".join(("layer", *lines)), fontsize=SMALL, color=FAINT)
    plain_axis(axis)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=SMALL, labelcolor=INK)
    return figure


def _short(layers: Sequence[str]) -> list[str]:
    """The number of a layer of the one stack, other names in full."""
    return [layer.removeprefix("layer.") for layer in layers]
