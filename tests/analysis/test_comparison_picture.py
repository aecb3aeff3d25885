"""The picture of a comparison: the rows of the table in their order, every seed of every row, nothing averaged away."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from adaptive_ft.analysis.comparison import ComparedRow, Comparison, SeedRun
from adaptive_ft.analysis.comparison_picture import compared_rows


def run(seed: int, near: float, far: float, tuned: float | None) -> SeedRun:
    return SeedRun(
        seed=seed, folder=Path("gone"), strategy="spottune", policy="light", train=0.9,
        scores={"near": near, "far": far}, official={}, start=None, tuned=tuned, trainable=1, frozen=1,
        peak_memory_gib=None, seconds=1.0, constants={},
    )  # fmt: skip


ROWS = [
    ComparedRow("first", [run(1, 0.7, 0.5, 0.25), run(2, 0.7, 0.6, 0.75)]),
    ComparedRow("none yet", []),
    ComparedRow("last", [run(1, 0.8, 0.4, None)]),
]


def dots(axis: Axes) -> list[list[float]]:
    """All dots of a panel, row by row."""
    return [point for drawn in axis.collections for point in np.asarray(drawn.get_offsets()).tolist()]


def means(axis: Axes) -> list[tuple[float, float]]:
    """Place and row of the marks."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "|"]


def test_every_seed_is_a_dot_and_the_mean_a_mark() -> None:
    figure = compared_rows(Comparison(["near", "far"], ROWS, reference="first"))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["Val near (%)", "Gap near (points)", "Val far (%)", "Gap far (points)", "Tuned (%)"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["first", "none yet", "last"]
    near, _, _, gap_far, tuned = figure.axes
    assert [value for value, _ in dots(near)] == pytest.approx([70, 70, 80])
    assert [value for value, _ in dots(gap_far)] == pytest.approx([40, 30, 50])
    assert [value for value, _ in dots(tuned)] == pytest.approx([25, 75]), "an unknown share is no dot"
    assert np.array(means(gap_far)) == pytest.approx(np.array([[35, 0], [50, 2]]))
    figure.canvas.draw()


def test_equal_seeds_stand_apart_in_the_line_of_their_row() -> None:
    heights = [height for _, height in dots(compared_rows(Comparison(["near", "far"], ROWS)).axes[0])]
    assert len(set(heights)) == 3
    assert [round(height) for height in heights] == [0, 0, 2]


def test_the_first_row_of_the_table_is_on_top_and_the_reference_is_a_line_through_all() -> None:
    axis = compared_rows(Comparison(["near", "far"], ROWS, reference="last")).axes[0]
    below, above = axis.get_ylim()
    assert above < 0 < 2 < below
    assert [line.get_xdata() for line in axis.lines if line.get_linestyle() == ":"] == [[pytest.approx(80)] * 2]
