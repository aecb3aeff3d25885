"""Charts: every value lands where the axis says, the ends are labelled and apart, nothing can break out of the SVG."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from adaptive_ft.analysis.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, Line, histogram, line_chart


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.?\d*", text)]


def test_a_line_runs_from_edge_to_edge_and_says_its_last_value() -> None:
    tree = ElementTree.fromstring(line_chart([Line("loss", [(1, 10), (2, 20), (3, 15)], 0)], "epoch"))
    (path,) = tree.iter("path")
    points = numbers(path.attrib["d"])
    assert (points[0], points[4]) == (LEFT, WIDTH - RIGHT)
    assert points[3] < points[5] < points[1]  # 20 stands above 15 above 10
    assert [text.text for text in tree.iter("text") if "end" in text.get("class", "")] == ["15.0"]


def test_labels_of_lines_that_end_together_do_not_cover_each_other() -> None:
    lines = [Line(str(tone), [(1, 5.0), (2, 7.0 + tone / 1000)], tone) for tone in range(4)]
    tree = ElementTree.fromstring(line_chart(lines, "epoch"))
    heights = sorted(float(text.attrib["y"]) for text in tree.iter("text") if "end" in text.get("class", ""))
    assert all(later - earlier >= 13.9 for earlier, later in pairwise(heights))
    assert heights[-1] <= HEIGHT


def test_one_epoch_and_equal_values_still_have_axes() -> None:
    tree = ElementTree.fromstring(line_chart([Line("val", [(1, 50.0)], 1)], "epoch"))
    assert [text.text for text in tree.iter("text") if "axis" in text.get("class", "")] == ["epoch"]
    assert "nan" not in line_chart([Line("val", [(1, 50.0), (2, 50.0)], 1)], "epoch")


def test_without_points_there_is_no_chart() -> None:
    assert line_chart([Line("val", [], 0)], "epoch") == ""
    assert histogram({}, "tuned", "questions") == ""


def test_a_name_cannot_break_out() -> None:
    drawn = line_chart([Line('"><script>alert(1)</script>', [(1, 1), (2, 2)], 0)], "<b>")
    assert "<script" not in drawn
    assert "<b>" not in drawn
    ElementTree.fromstring(drawn)


def test_a_histogram_has_bars_as_high_as_their_counts() -> None:
    tree = ElementTree.fromstring(histogram({3: 10, 5: 5}, "tuned", "questions"))
    high, low = (float(bar.attrib["height"]) for bar in tree.iter("rect"))
    assert high == 2 * low
    assert [title.text for title in tree.iter("title")] == ["10 questions with 3", "5 questions with 5"]


@pytest.mark.parametrize("highest", [1, 3, 29])
def test_no_bar_is_higher_than_the_last_line_of_the_grid(highest: int) -> None:
    tree = ElementTree.fromstring(histogram({178: 1, 179: highest}, "tuned", "questions"))
    top = min(float(bar.attrib["y"]) for bar in tree.iter("rect"))
    lines = [float(line.attrib["y1"]) for line in tree.iter("line")]
    assert min(lines) <= top
    counted = [text.text for text in tree.iter("text") if text.attrib.get("text-anchor") == "end"]
    assert all(float(str(tick)).is_integer() for tick in counted)
