"""How much of every layer a run tuned, from the usage tables in its folder (`save_usage_csv`)."""

import csv
import re
from collections import defaultdict
from pathlib import Path

from adaptive_ft.errors import UserError


def newest_usage(plots: Path) -> Path | None:
    """The table of the last epoch's validation in a run's folder of pictures, or None."""
    found = {file: re.fullmatch(r"usage_val_epoch(\d+)\.csv", file.name) for file in plots.glob("usage_val_epoch*.csv")}
    epochs = {int(match.group(1)): file for file, match in found.items() if match}
    return epochs[max(epochs)] if epochs else None


def tuned_by_layer(table: Path) -> dict[str, float]:
    """Share of (sample, component) pairs that were tuned in every layer, live components only.

    Raises UserError for a table of another form.
    """
    shares: defaultdict[str, list[float]] = defaultdict(list)
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["live"] == "1":
                    shares[row["layer"]].append(float(row["tuned_share"]))
    except (KeyError, ValueError) as error:
        raise UserError(f"'{table}' is no table of gate usage: {error!r}.") from error
    return {layer: sum(values) / len(values) for layer, values in shares.items()}
