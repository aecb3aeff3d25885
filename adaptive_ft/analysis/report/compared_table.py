"""The table that adaptive-ft compare leaves in its folder, as a page shows it: text, and a figure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import read_json_object, write_whole

FILE = "comparison.json"
FIGURE = "comparison.png"


@dataclass(frozen=True)
class ComparedTable:
    """Names of the columns, the cells of each row, the sentences below, and the figure as PNG."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    figure: bytes | None = None

    def save(self, folder: Path) -> None:
        """Write the text into the folder of the comparison, where the figure is a file of its own."""
        text = {"header": self.header, "rows": self.rows, "notes": self.notes}
        write_whole(folder / FILE, json.dumps(text, indent=1, ensure_ascii=False))


def read_table(folder: Path) -> ComparedTable:
    """The table of a comparison's folder, with its figure where there is one.

    Raises:
        UserError: there is none, or it is not what adaptive-ft compare writes.
    """
    path = folder / FILE
    text = read_json_object(path)
    if text is None:
        raise UserError(f"'{folder}' has no {FILE}: name the output_dir of a comparison.")
    try:
        table = ComparedTable(**text)
    except TypeError as error:
        raise UserError(f"'{path}' is not what adaptive-ft compare writes: {error}.") from error
    drawn = folder / FIGURE
    return replace(table, figure=drawn.read_bytes() if drawn.is_file() else None)
