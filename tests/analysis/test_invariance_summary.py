"""What is said of the measured matrices: searches that ended far from their target are named."""

from adaptive_ft.analysis.invariance_summary import far_told


def test_layers_whose_searches_ended_far_are_named() -> None:
    """The second and the third of four; one that has no number is not judged."""
    found = {"layers": ["a", "b", "c", "norm"], "median_residual": [0.2, 0.214, 1.4, None]}
    (line,) = far_told(found)
    assert line.startswith("little was found for b 0.21, c 1.40 (median residual above 0.2)")


def test_nothing_is_said_where_all_came_near() -> None:
    assert far_told({"layers": ["a", "norm"], "median_residual": [0.07, 0.01]}) == []
