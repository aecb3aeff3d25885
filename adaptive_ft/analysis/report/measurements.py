"""Measurements of shared invariances as a page shows them: the name, what was compared, and the figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.analysis.invariance_summary import compared_told
from adaptive_ft.analysis.measurement_folder import IN_RUN_FOLDER
from adaptive_ft.analysis.report.cards import data_address
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import read_json_object

INVARIANCE_FIGURES = {
    "stir.png": "shared invariances (STIR), layer by layer, inverted on the pretrained model",
    "stir-on-fine-tuned.png": "shared invariances (STIR), layer by layer, inverted on the fine-tuned model",
    "retention_and_usage.png": "invariances kept, layer by layer, beside the share tuned there",
}
"""What adaptive-ft invariance draws, and what that shows."""


@dataclass(frozen=True)
class Measurement:
    """A measurement's name, the sentence on what it compared ("" where none is known), and its figures.

    A figure is what it shows, and its data: address.
    """

    name: str
    compared: str
    figures: list[tuple[str, str]]


def read_measurement(folder: Path) -> Measurement:
    """What a folder of adaptive-ft invariance holds; the name is the run's where it lies in a run's folder.

    Raises:
        UserError: it has none of the figures.
    """
    name = folder.resolve().parent.name if folder.name == IN_RUN_FOLDER else folder.name
    return Measurement(name, _compared(folder), _figures(folder))


def _compared(folder: Path) -> str:
    """Figures are shown also where the summary beside them is damaged, or older than the names in it."""
    file = folder / "summary.json"
    try:
        summary = read_json_object(file)
        return "" if summary is None else f"Compared: {compared_told(summary['compared'])}."
    except (ValueError, KeyError, TypeError):
        return (
            f"What was compared is not known: {file} does not say it as adaptive-ft invariance does; the command that"
            " measured writes it anew."
        )


def _figures(folder: Path) -> list[tuple[str, str]]:
    files = {folder / name: shows for name, shows in INVARIANCE_FIGURES.items() if (folder / name).is_file()}
    if not files:
        first, *_, last = INVARIANCE_FIGURES
        raise UserError(f"'{folder}' has no {first} or {last}: name what adaptive-ft invariance wrote.")
    return [(shows, data_address(file.read_bytes())) for file, shows in files.items()]
