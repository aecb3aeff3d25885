"""Score against gap: every seed and every mean at its place, each panel of its own validation set."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes

from adaptive_ft.analysis.comparison import ComparedRow, Comparison
from adaptive_ft.analysis.drawing import PLAIN_COLOUR, POLICY_COLOUR, REFERENCE_COLOUR
from adaptive_ft.analysis.tradeoff_picture import score_against_gap
from tests.analysis.test_comparison_picture import ROWS


def seeds(axis: Axes) -> np.ndarray:
    """(gap, score) of every small dot, row by row."""
    return np.concatenate([np.asarray(drawn.get_offsets()) for drawn in axis.collections])


def means(axis: Axes) -> dict[str, tuple[float, float]]:
    """Where the number of each row stands."""
    return {text.get_text(): text.get_position() for text in axis.texts}


def test_every_seed_and_every_mean_stands_at_its_gap_and_score() -> None:
    """Training scores are .9: a gap is what is missing to it. A row without runs keeps its number."""
    figure = score_against_gap(Comparison(["near", "far"], ROWS, reference="last"))
    near, far = figure.axes
    assert seeds(near) == pytest.approx(np.array([[20, 70], [20, 70], [10, 80]]))
    assert seeds(far) == pytest.approx(np.array([[40, 50], [30, 60], [50, 40]]))
    lines = [line.get_xydata().tolist() for line in far.lines if line.get_marker() != "o"]
    assert np.array(lines) == pytest.approx(
        np.array([[(35, 55), (40, 50)], [(35, 55), (30, 60)], [(50, 40), (50, 40)]])
    ), "every seed hangs on its mean"
    assert means(far) == {"1": pytest.approx((35, 55)), "3": pytest.approx((50, 40))}
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Val near (%)", "Val far (%)"]
    figure.canvas.draw()


def test_the_rows_are_named_beside_the_panels_in_the_colour_of_their_kind() -> None:
    """With a policy, without one, and the reference."""
    plain = ComparedRow("plain", [replace(ROWS[0].runs[0], policy=None)])
    figure = score_against_gap(Comparison(["near"], [*ROWS, plain], reference="last"))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["1  first", "3  last", "4  plain"]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [mark.get_color() for mark in marks] == [POLICY_COLOUR, REFERENCE_COLOUR, PLAIN_COLOUR]
