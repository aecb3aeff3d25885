"""The look that all figures share: colours, letter sizes, and an empty figure that draws without a display.

Figures are built without pyplot, so that drawing touches no state of the program that asks for it.
"""

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, FAINT, GRID, AXIS = "#24292f", "#6b747d", "#e3e6e8", "#b8bfc5"
TRAIN_COLOUR, VAL_COLOUR, GAP_COLOUR = "#3b528b", "#d1495b", "#8d6a9f"
REFERENCE_COLOUR, POLICY_COLOUR, PLAIN_COLOUR = INK, "#2a9d8f", "#c77d2b"
"""Of rows of a comparison: the one that others are held against, those with a policy, and those without."""
SMALL, NORMAL, LARGE = 7.5, 9.0, 12.0
DPI = 160


def empty_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches that draws without a display and leaves room for every label."""
    layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09, hspace=0.04, wspace=0.03)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def plain_axis(axis: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """A frame of one line below, a faint grid over the values of `grid`, and small numbers without ticks."""
    axis.grid(axis=grid, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=SMALL, labelcolor=FAINT)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(AXIS)
