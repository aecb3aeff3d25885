"""The table that adaptive-ft compare leaves in its folder, as a page shows it: text alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

FILE = "comparison.json"


@dataclass(frozen=True)
class ComparedTable:
    """Names of the columns, the cells of each row, and the sentences below."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def save(self, folder: Path) -> None:
        """Write it into the folder of the comparison."""
        write_whole(folder / FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False))


def read_table(folder: Path) -> ComparedTable:
    """The table of a comparison's folder.

    Raises:
        UserError: there is none, or it is not what adaptive-ft compare writes.
    """
    path = folder / FILE
    try:
        return ComparedTable(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"'{folder}' has no {FILE}: name the output_dir of a comparison.") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"'{path}' is not what adaptive-ft compare writes: {error}.") from error
