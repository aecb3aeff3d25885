"""The table of a comparison: the original's columns, as mean and sample standard deviation over seeds, and the cost.

Scores are shares in [0, 1] where they are numbers and percent where they are text; parameters are counted in millions.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.strategies_table import UNKNOWN, percent


@dataclass(frozen=True)
class SeedRun:
    """What one finished run gives to its row; `scores`, soft ones, are by the names of the validation sets, and so are
    the `official` accuracies, where there are ten answers to each question."""

    seed: int
    folder: Path
    strategy: str
    policy: str | None
    train: float
    scores: Mapping[str, float]
    official: Mapping[str, float]
    start: float | None
    tuned: float | None
    trainable: int
    frozen: int
    peak_memory_gib: float | None
    seconds: float
    constants: Mapping[str, str]

    @property
    def gaps(self) -> dict[str, float]:
        """train - val by validation set."""
        return {name: self.train - score for name, score in self.scores.items()}


@dataclass(frozen=True)
class ComparedRow:
    """A row of the table: the finished runs of its seeds, and its cost relative to the reference round by round."""

    name: str
    runs: Sequence[SeedRun]
    cost: Sequence[float] = ()


@dataclass(frozen=True)
class Comparison:
    """All rows; `notes` are the sentences below the table, `reference` is the row that others are held against."""

    validation: Sequence[str]
    rows: Sequence[ComparedRow]
    notes: Sequence[str] = field(default_factory=tuple)
    reference: str | None = None


def seed_run(folder: Path, seed: int, validation: Mapping[str, str]) -> SeedRun:
    """Read a finished run; `validation` are its validation sets by name, the one judged after every epoch first."""
    run = read_run(folder)
    assert run.summary is not None, f"{folder} has not finished"
    first, *others = validation
    found = {name: run.also_val[validation[name]] for name in others}
    told = run.summary
    official = {name: one.get("official_accuracy") for name, one in {first: told, **found}.items()}
    return SeedRun(
        seed=seed,
        folder=folder,
        strategy=told["strategy"],
        policy=told["policy"],
        train=told["train_score"],
        scores={first: told["val_score"], **{name: one["score"] for name, one in found.items()}},
        official={name: accuracy for name, accuracy in official.items() if accuracy is not None},
        start=told["start_val_score"],
        tuned=told["tuned_share"],
        trainable=told["trainable_parameters"],
        frozen=told["frozen_parameters"],
        peak_memory_gib=run.peak_memory_gib,
        seconds=told["seconds"],
        constants={first: _constant(told), **{name: _constant(one) for name, one in found.items()}},
    )


def _constant(told: Mapping[str, Any]) -> str:
    return f"'{told['best_constant']['answer']}' {percent(told['best_constant']['score'])}"


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, sqrt(sum (v - mean)^2 / (n - 1)); None for the latter of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def header(comparison: Comparison) -> list[str]:
    """The names of the columns."""
    judged = [name for each in comparison.validation for name in (f"Val {each}", f"Gap {each}")]
    return ["Row", "Seeds", "Train", *judged, "Parameters (M)", "Tuned", "Step cost", "Peak GiB"]


def cells(comparison: Comparison) -> list[list[str]]:
    """The rows as text, in the order of `header`."""
    return [_cells(row, comparison.validation) for row in comparison.rows]


def _cells(row: ComparedRow, validation: Sequence[str]) -> list[str]:
    if not row.runs:
        return [row.name, "0", *[UNKNOWN] * (2 * len(validation) + 5)]
    judged = [
        _told([source[name] for source in sources], sign)
        for name in validation
        for sources, sign in (([run.scores for run in row.runs], ""), ([run.gaps for run in row.runs], "+"))
    ]
    one = row.runs[0]
    tuned = [run.tuned for run in row.runs if run.tuned is not None]
    peaks = [run.peak_memory_gib for run in row.runs if run.peak_memory_gib is not None]
    return [
        row.name,
        str(len(row.runs)),
        _told([run.train for run in row.runs]),
        *judged,
        f"{one.trainable / 1e6:.2f} + {one.frozen / 1e6:.2f}",
        _told(tuned, decimals=0) + " %" if tuned else UNKNOWN,
        _cost(row.cost),
        f"{max(peaks):.2f}" if peaks else UNKNOWN,
    ]


def _told(shares: Sequence[float], sign: str = "", decimals: int = 2) -> str:
    mean, deviation = spread([100 * share for share in shares])
    told = f"{mean:{sign}.{decimals}f}"
    return told if deviation is None else f"{told} ± {deviation:.{decimals}f}"


def _cost(ratios: Sequence[float]) -> str:
    """The median round, and the least and the most, which on busy cores lie far apart."""
    if not ratios:
        return UNKNOWN
    least, most = (f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
    return f"{statistics.median(ratios):.2f}" + (f" ({least} to {most})" if least != most else "")


def as_markdown(comparison: Comparison) -> str:
    """The table, its notes, and every run by itself."""
    runs_header = ["Row", "Seed", "Train", *(f"Val {name}" for name in comparison.validation), "Tuned", "Seconds"]
    runs = [
        [
            row.name, str(run.seed), percent(run.train), *(percent(run.scores[name]) for name in comparison.validation),
            UNKNOWN if run.tuned is None else f"{100 * run.tuned:.0f} %", f"{run.seconds:.0f}",
        ]
        for row in comparison.rows
        for run in row.runs
    ]  # fmt: skip
    table = _markdown(header(comparison), cells(comparison))
    return "\n".join([*table, "", *comparison.notes, "", "Every run:", "", *_markdown(runs_header, runs)]) + "\n"


def _markdown(names: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(names) - 1)]
    return ["| " + " | ".join(line) + " |" for line in (names, rule, *body)]


def as_text(comparison: Comparison) -> str:
    """The table for a terminal, with its notes."""
    lines = [header(comparison), *cells(comparison)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["─" * width for width in widths])
    told = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*told, *comparison.notes]) + "\n"


def row_numbers(comparison: Comparison) -> list[dict[str, Any]]:
    """A line per row for a CSV: means and deviations as shares, None where there is nothing."""
    return [_row_numbers(row, comparison.validation) for row in comparison.rows]


def _row_numbers(row: ComparedRow, validation: Sequence[str]) -> dict[str, Any]:
    columns: dict[str, list[float]] = {"train": [run.train for run in row.runs]}
    for name in validation:
        columns[f"val_{name}"] = [run.scores[name] for run in row.runs]
        columns[f"gap_{name}"] = [run.gaps[name] for run in row.runs]
        columns[f"official_{name}"] = [run.official[name] for run in row.runs if name in run.official]
    columns["tuned"] = [run.tuned for run in row.runs if run.tuned is not None]
    numbers: dict[str, Any] = {"row": row.name, "seeds": " ".join(str(run.seed) for run in row.runs)}
    for name, values in columns.items():
        numbers[f"{name}_mean"], numbers[f"{name}_sd"] = spread(values) if values else (None, None)
    costs = sorted(row.cost)
    peaks = [run.peak_memory_gib for run in row.runs if run.peak_memory_gib is not None]
    return {
        **numbers,
        "trainable": row.runs[0].trainable if row.runs else None,
        "frozen": row.runs[0].frozen if row.runs else None,
        "step_cost": statistics.median(costs) if costs else None,
        "step_cost_least": costs[0] if costs else None,
        "step_cost_most": costs[-1] if costs else None,
        "peak_memory_gib": max(peaks, default=None),
    }


def run_numbers(comparison: Comparison) -> list[dict[str, Any]]:
    """A line per run for a CSV."""
    return [
        {
            "row": row.name, "seed": run.seed, "strategy": run.strategy, "policy": run.policy, "train": run.train,
            **{f"val_{name}": run.scores[name] for name in comparison.validation},
            **{f"gap_{name}": run.gaps[name] for name in comparison.validation},
            **{f"official_{name}": run.official.get(name) for name in comparison.validation},
            "start_val": run.start, "tuned": run.tuned, "trainable": run.trainable, "frozen": run.frozen,
            "peak_memory_gib": run.peak_memory_gib, "seconds": run.seconds, "folder": str(run.folder),
        }
        for row in comparison.rows
        for run in row.runs
    ]  # fmt: skip


def official_told(comparison: Comparison) -> list[str]:
    """A sentence for each validation set: the official VQA accuracy of every row, which is no soft score."""
    told = []
    for name in comparison.validation:
        rows = {row.name: [run.official[name] for run in row.runs if name in run.official] for row in comparison.rows}
        scores = ", ".join(f"{row} {_told(found)}" for row, found in rows.items() if found)
        told += [f"Official accuracy, {name}: {scores}."] if scores else []
    return told


def constants_told(comparison: Comparison) -> str:
    """The best constant answers, and what the bases score before training: what there is to beat."""
    runs = [run for row in comparison.rows for run in row.runs]
    told = []
    for name in comparison.validation:
        told += [f"{name} {constant}" for constant in dict.fromkeys(run.constants[name] for run in runs)]
    starts = _starts(comparison.rows)
    base = f" The pretrained base before training: {', '.join(starts)} ({comparison.validation[0]})."
    return f"Best constant answer: {'; '.join(told)}.{base if starts else ''}"


def _starts(rows: Sequence[ComparedRow]) -> list[str]:
    """What the bases score before training; of several, each with the first row that stands on it."""
    started = [(percent(run.start), row.name) for row in rows for run in row.runs if run.start is not None]
    first: dict[str, str] = {}
    for start, row in started:
        first.setdefault(start, row)
    return list(first) if len(first) == 1 else [f"{start} of {row}" for start, row in first.items()]


def priors_told(scores: Mapping[str, float]) -> list[str]:
    """What the answers of training alone score, by validation set: a line, or none where it is not known."""
    told = [f"{name} {percent(score)}" for name, score in scores.items()]
    return [f"Best answer of each type of question in training: {'; '.join(told)}."] if told else []
