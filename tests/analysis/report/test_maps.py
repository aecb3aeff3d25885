"""Maps: one cell per live component with its number and value, dead ones apart, panels as in the pictures."""

from xml.etree import ElementTree

from adaptive_ft.analysis.report.maps import heat_map, small_map
from tests.analysis.report.conftest import COMPONENTS


def test_every_component_has_its_cell() -> None:
    told = [f"{name}: told" for name in COMPONENTS.names]
    tree = ElementTree.fromstring(heat_map([place / 8 for place in range(8)], COMPONENTS, told))
    cells = {
        int(cell.attrib["data-c"]): (cell.attrib["style"], cell.findtext("title"))
        for cell in tree.iter("rect")
        if cell.attrib["class"] == "cell"
    }
    assert cells == {place: (f"--t:{place / 8:g}", told[place]) for place in range(7)}
    (dead,) = [cell for cell in tree.iter("rect") if cell.attrib["class"] == "dead"]
    assert dead.findtext("title") == "layer.1.ffn.in: told"


def test_rows_and_columns_are_named() -> None:
    tree = ElementTree.fromstring(heat_map([0.5] * 8, COMPONENTS, [""] * 8))
    labels = [text.text for text in tree.iter("text")]
    assert labels == ["layer 0", "layer 1", "attention", "0", "1", "2", "ffn in"]


def test_the_small_map_has_a_square_per_component_in_three_paths() -> None:
    tree = ElementTree.fromstring(small_map([1, 0, 0, 1, 1, 1, 0, 1], COMPONENTS))
    assert {path.attrib["class"]: path.attrib["d"].count("M") for path in tree.iter("path")} == {
        "on": 4, "off": 3, "dead": 1,
    }  # fmt: skip
