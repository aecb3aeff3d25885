"""The table that compares strategies: one row per finished run, as in the original's readme.

Scores are shares in [0, 1] in summary.json and percent in the table; parameters are counted in millions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import read_json_object

SUMMARY = "summary.json"
_UNKNOWN = "–"
_HEADER = ("Run", "Strategy", "Policy", "Train", "Val", "Gap", "Val official", "Parameters (M)", "Tuned")
_TYPES: dict[Any, Any] = {
    "str": str,
    "str | None": (str, NoneType),
    "int": int,
    "float | None": (int, float, NoneType),
}
_TEXT_COLUMNS = 3  # words, aligned to the left; the rest are numbers


@dataclass(frozen=True, slots=True)
class Row:
    """What the table tells of a run; None where the run does not have the number."""

    name: str
    strategy: str
    policy: str | None
    train_score: float | None
    val_score: float | None
    gap: float | None
    official_accuracy: float | None
    trainable_parameters: int
    frozen_parameters: int
    tuned_share: float | None
    best_constant: str
    val_data: str | None

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> Row:
        """The row of a run's summary; raises KeyError for a missing key, ValueError for a value of another type."""
        row = cls(
            name=summary["name"],
            strategy=summary["strategy"],
            policy=summary["policy"],
            train_score=summary["train_score"],
            val_score=summary["val_score"],
            gap=summary["gap"],
            official_accuracy=summary["official_accuracy"],
            trainable_parameters=summary["trainable_parameters"],
            frozen_parameters=summary["frozen_parameters"],
            tuned_share=summary["tuned_share"],
            best_constant=_constant(summary["best_constant"]),
            # Summaries of the first runs do not tell it.
            val_data=summary.get("val_data"),
        )
        for field in fields(cls):
            value = getattr(row, field.name)
            if not isinstance(value, _TYPES[field.type]):
                raise ValueError(f"has the {field.name} {value!r}")
        return row


@dataclass(frozen=True, slots=True)
class SkippedRun:
    """A run folder without a row, and why."""

    folder: Path
    reason: str


def read_rows(folders: Iterable[Path]) -> tuple[list[Row], list[SkippedRun]]:
    """The rows of the finished runs in the order of `folders`, and the folders that have none to give."""
    rows, skipped = [], []
    for folder in folders:
        try:
            summary = read_json_object(folder / SUMMARY)
            if summary is None:
                skipped.append(SkippedRun(folder, _missing(folder)))
            else:
                rows.append(Row.from_summary(summary))
        except UserError as error:
            skipped.append(SkippedRun(folder, str(error).rstrip(".")))
        except KeyError as error:
            skipped.append(SkippedRun(folder, f"{SUMMARY} has no {error.args[0]!r}"))
        except ValueError as error:
            skipped.append(SkippedRun(folder, f"{SUMMARY} {error}"))
    return rows, skipped


def _missing(folder: Path) -> str:
    return f"no {SUMMARY}: the run has not finished" if folder.is_dir() else "no such folder"


def markdown_table(rows: Sequence[Row], skipped: Sequence[SkippedRun] = ()) -> str:
    """The table in Markdown, with the best constant answer and the skipped runs below it."""
    header, *body = _cells(rows)
    rule = ["---" if place < _TEXT_COLUMNS else "---:" for place in range(len(header))]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *body)]
    return "\n".join([*lines, *([""] if _notes(rows, skipped) else []), *_notes(rows, skipped)]) + "\n"


def text_table(rows: Sequence[Row], skipped: Sequence[SkippedRun] = ()) -> str:
    """The same for a terminal: aligned columns, words to the left, numbers to the right."""
    header, *body = _cells(rows)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [_aligned(cells, widths) for cells in (header, ["─" * width for width in widths], *body)]
    return "\n".join([*lines, *_notes(rows, skipped)]) + "\n"


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    words = ([row.name, row.strategy, row.policy or _UNKNOWN] for row in rows)
    return [list(_HEADER), *([*left, *_numbers(row)] for left, row in zip(words, rows, strict=True))]


def _numbers(row: Row) -> list[str]:
    return [
        _percent(row.train_score),
        _percent(row.val_score),
        _UNKNOWN if row.gap is None else f"{100 * row.gap:+.2f}",
        _percent(row.official_accuracy),
        f"{_millions(row.trainable_parameters)} + {_millions(row.frozen_parameters)}",
        _UNKNOWN if row.tuned_share is None else f"{100 * row.tuned_share:.0f} %",
    ]


def _notes(rows: Sequence[Row], skipped: Sequence[SkippedRun]) -> list[str]:
    """What a reader must know besides: units, the constants to beat, the runs that are not there."""
    notes = ["Scores in percent; parameters trainable + frozen."] if rows else []
    names: dict[tuple[str | None, str], list[str]] = {}
    for row in rows:
        names.setdefault((row.val_data, row.best_constant), []).append(row.name)
    for (_, constant), runs in names.items():
        where = f" on the validation data of {', '.join(runs)}" if len(names) > 1 else ""
        notes.append(f"Best constant answer{where}: {constant}.")
    return notes + [f"Not in the table: {run.folder} ({run.reason})." for run in skipped]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if place < _TEXT_COLUMNS else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _constant(constant: Any) -> str:
    if not isinstance(constant, dict):
        raise ValueError(f"has the best_constant {constant!r}")
    official = constant.get("official_accuracy")
    if not (isinstance(constant["score"], (int, float)) and isinstance(official, (int, float, NoneType))):
        raise ValueError(f"has the best_constant {constant!r}")
    told = "" if official is None else f" (official {_percent(official)})"
    return f"'{constant['answer']}' {_percent(constant['score'])}{told}"


def _percent(share: float | None) -> str:
    return _UNKNOWN if share is None else f"{100 * share:.2f}"


def _millions(count: int) -> str:
    """One decimal as in the original's table, two for models below ten million."""
    return f"{count / 1e6:.{1 if count >= 10_000_000 else 2}f}"
