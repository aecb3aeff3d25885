"""The folder of one measurement: what it measures, every finished row, and the whole matrices when all are there.

measurement.json        what is measured: models, layers, images, settings, device; another measurement is refused.
                        "compared" in it says by which names: the same weights under another name are the same
rows/NAME.npz           one row: an inverted layer (000, 001, ...) against all layers of all judges, or what the judges
                        make of the starts (unsearched); there whole or not at all
matrices.npz            all matrices
stir-JUDGE.csv, rsm-JUDGE.csv, unbiased-JUDGE.csv, residuals.csv    the same as tables, layer names in the first line
                        and column
"""

import csv
import io
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import left_by_kill_pattern, write_whole

IN_RUN_FOLDER = "invariance"
"""Its name where a run's folder holds it."""
Floats = NDArray[np.float64]
Row = Mapping[str, Floats]
"""What a row holds, by name."""
_FACTS = "measurement.json"
_COMPARED = "compared"


@dataclass(frozen=True)
class MeasurementFolder:
    """Where a measurement keeps what it has found."""

    path: Path

    def open(self, facts: Mapping[str, Any], compared: Mapping[str, Any]) -> None:
        """Take the folder for the measurement of these facts, or go on with it; `compared` is told beside them.

        Raises:
            UserError: another measurement lies there, or facts that cannot be read.
        """
        file = self.path / _FACTS
        if file.is_file():
            self._compare(facts, file)
        elif self.path.exists() and (not self.path.is_dir() or any(map(_is_foreign, self.path.iterdir()))):
            raise UserError(f"'{self.path}' is in use by something else: choose a new folder for the measurement.")
        # The facts come first: from then on the folder says whose it is.
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**facts, _COMPARED: compared}, indent=1))
        self._rows.mkdir(exist_ok=True)

    def row(self, name: str) -> Row | None:
        """A finished row, or None; one that cannot be read counts as not there and is measured again."""
        try:
            with np.load(self._row_file(name), allow_pickle=False) as held:
                return {part: held[part] for part in held.files}
        except (FileNotFoundError, BadZipFile, zlib.error, ValueError, EOFError):
            return None

    def write_row(self, name: str, row: Row) -> None:
        """Keep a finished row."""
        write_whole(self._row_file(name), npz(row))

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

    def _compare(self, facts: Mapping[str, Any], file: Path) -> None:
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"'{file}' cannot be read ({error}): choose a new folder, or remove this one.") from error
        # Facts go through JSON once, which makes lists of tuples.
        wanted = json.loads(json.dumps(facts))
        held = held if isinstance(held, dict) else {}
        # Both ways round: a control that was measured and is not asked for is another measurement, too.
        names = dict.fromkeys((*wanted, *held))
        other = [name for name in names if name != _COMPARED and held.get(name) != wanted.get(name)]
        if other:
            raise UserError(
                f"'{self.path}' holds another measurement (its {', '.join(other)} differ): choose a new folder, or"
                " repeat the options it was begun with."
            )

    @property
    def _rows(self) -> Path:
        return self.path / "rows"

    def _row_file(self, name: str) -> Path:
        return self._rows / f"{name}.npz"


def _is_foreign(path: Path) -> bool:
    """Not the facts themselves, which a kill left under the name they are written by."""
    return not re.fullmatch(left_by_kill_pattern(re.escape(_FACTS)), path.name)


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
