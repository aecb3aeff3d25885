"""A measurement on the page: its name, what was compared, its figures; a damaged summary takes none of them away."""

import json
from pathlib import Path

import pytest

from adaptive_ft.analysis.report.cards import data_address
from adaptive_ft.analysis.report.measurements import INVARIANCE_FIGURES, read_measurement
from adaptive_ft.errors import UserError
from tests.analysis.report.conftest import picture

COMPARED = {
    "fine-tuned": {"name": "runs/mine", "policy": "network", "checkpoint": "step_000040"},
    "pretrained": {"name": "vit"},
    "shards": "val",
    "images": 9,
    "device": "cpu",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A measurement whose figure is there and whose summary is not."""
    path = tmp_path / "mine/invariance"
    path.mkdir(parents=True)
    (path / "stir.png").write_bytes(picture())
    return path


def test_a_measurement_in_a_runs_folder_has_the_runs_name(folder: Path) -> None:
    """Anywhere else its own."""
    assert read_measurement(folder).name == "mine"
    assert read_measurement(folder.rename(folder.with_name("kept"))).name == "kept"


def test_the_figures_that_are_there_say_what_they_show(folder: Path) -> None:
    """None at all is an error."""
    shown = [(INVARIANCE_FIGURES["stir.png"], data_address(picture()))]
    assert read_measurement(folder).figures == shown
    (folder / "stir.png").unlink()
    with pytest.raises(UserError, match=r"invariance' has no stir\.png or retention_and_usage\.png"):
        read_measurement(folder)


def test_what_was_compared_is_told_by_names(folder: Path) -> None:
    """Nothing of it before the measurement has come to its summary."""
    assert read_measurement(folder).compared == ""
    (folder / "summary.json").write_text(json.dumps({"compared": COMPARED}))
    told = "Compared: fine-tuned runs/mine (policy network, step_000040) · pretrained vit · 9 of val · cpu."
    assert read_measurement(folder).compared == told


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{", "\ud800", "{}", '{"compared": null}', '{"compared": {"fine-tuned": "vit"}}', '{"compared": {}}'],
)
def test_a_summary_that_does_not_say_it_ends_no_report(content: str, folder: Path) -> None:
    """Damaged, or made before what was compared stood in it: the file is named, and the figures are shown."""
    (folder / "summary.json").write_bytes(content.encode(errors="surrogatepass"))
    measurement = read_measurement(folder)
    assert measurement.compared.startswith(f"What was compared is not known: {folder / 'summary.json'} does not say it")
    assert measurement.figures
