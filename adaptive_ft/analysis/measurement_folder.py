"""The folder of one measurement: what it measures, every finished row, and the whole matrices when all are there.

measurement.json        what is measured: models, layers, images, settings; another measurement is refused
rows/NUMBER.npz         one row: an inverted layer against all layers of all judges; there whole or not at all
matrices.npz            all matrices
stir-JUDGE.csv, rsm-JUDGE.csv, residuals.csv    the same as tables, layer names in the first line and column
"""

import csv
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

Floats = NDArray[np.float64]
Row = Mapping[str, Floats]
"""What a row holds, by name."""
_FACTS = "measurement.json"


@dataclass(frozen=True)
class MeasurementFolder:
    """Where a measurement keeps what it has found."""

    path: Path

    def open(self, facts: dict[str, Any]) -> None:
        """Take the folder for the measurement of these facts, or go on with it.

        Raises:
            UserError: another measurement lies there, or facts that cannot be read.
        """
        file = self.path / _FACTS
        if file.is_file():
            self._compare(facts, file)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"'{self.path}' is in use by something else: choose a new folder for the measurement.")
        (self.path / "rows").mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(facts, indent=1))

    def row(self, number: int) -> Row | None:
        """A finished row, or None; one that cannot be read counts as not there and is measured again."""
        try:
            with np.load(self._row_file(number), allow_pickle=False) as held:
                return {name: held[name] for name in held.files}
        except (FileNotFoundError, BadZipFile, zlib.error, ValueError, EOFError):
            return None

    def write_row(self, number: int, row: Row) -> None:
        """Keep a finished row."""
        write_whole(self._row_file(number), npz(row))

    def write_table(self, name: str, header: tuple[str, ...], rows: Mapping[str, Floats]) -> None:
        """Write NAME.csv: the header after an empty corner, and per row its name and numbers."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("", *header))
        writer.writerows((row, *numbers.tolist()) for row, numbers in rows.items())
        write_whole(self.path / f"{name}.csv", text.getvalue())

    def write_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write matrices.npz."""
        write_whole(self.path / "matrices.npz", npz(arrays))

    def _compare(self, facts: dict[str, Any], file: Path) -> None:
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"'{file}' cannot be read ({error}): choose a new folder, or remove this one.") from error
        # Facts go through JSON once, which makes lists of tuples.
        wanted = json.loads(json.dumps(facts))
        other = [name for name in wanted if not isinstance(held, dict) or held.get(name) != wanted[name]]
        if other:
            raise UserError(
                f"'{self.path}' holds another measurement (its {', '.join(other)} differ): choose a new folder, or"
                " repeat the options it was begun with."
            )

    def _row_file(self, number: int) -> Path:
        return self.path / "rows" / f"{number:03d}.npz"


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
