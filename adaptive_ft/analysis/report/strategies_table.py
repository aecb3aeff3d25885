"""The table that compares the runs of a page, with what it cost, as cells of text and as CSV.

Scores are percent, parameters millions; a run that has not finished shows its last epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adaptive_ft.analysis.report.run_files import RunFiles, is_number

UNKNOWN = "–"
COLUMNS = (
    "run", "strategy", "policy", "train", "val", "gap", "official", "trainable", "frozen", "tuned", "epochs", "seconds",
    "examples_per_second", "finished",
)  # fmt: skip


def numbers(run: RunFiles, parameters: dict[str, int] | None) -> dict[str, Any]:
    """A run's row as plain values, None where it is not known; `parameters` serve where there is no summary."""
    last: dict[str, Any] = run.epochs[-1] if run.epochs else {}
    told = run.summary or {}
    counts = parameters or {}
    policy = run.options("adapt", "policy").get("kind")
    return {
        "run": run.name,
        "strategy": run.strategy,
        "policy": told.get("policy") if run.finished else policy,
        "train": told.get("train_score", last.get("train_score")),
        "val": told.get("val_score", last.get("val_score")),
        "gap": told.get("gap", last.get("gap")),
        "official": told.get("official_accuracy", last.get("official_accuracy")),
        "trainable": told.get("trainable_parameters", counts.get("trainable")),
        "frozen": told.get("frozen_parameters", counts.get("frozen")),
        "tuned": told.get("tuned_share", last.get("tuned_share_val")),
        "epochs": told.get("epochs", int(last.get("epoch", 0))),
        "seconds": told.get("seconds"),
        "examples_per_second": run.speed,
        "finished": run.finished,
    }


def cells(row: dict[str, Any]) -> dict[str, str]:
    """The row as text for reading."""
    both = [row["trainable"], row["frozen"]]
    return {
        "strategy": row["strategy"],
        "policy": row["policy"] or UNKNOWN,
        "train": percent(row["train"]),
        "val": percent(row["val"]),
        "gap": f"{100 * row['gap']:+.2f}" if is_number(row["gap"]) else UNKNOWN,
        "official": percent(row["official"]),
        "parameters": UNKNOWN if None in both else " + ".join(f"{count / 1e6:.2f}" for count in both),
        "tuned": percent(row["tuned"], 0),
        "epochs": str(row["epochs"]),
        "seconds": UNKNOWN if row["seconds"] is None else f"{row['seconds']:,.0f}",
        "speed": UNKNOWN if row["examples_per_second"] is None else f"{row['examples_per_second']:,.0f}",
    }


def to_beat(runs: Sequence[RunFiles]) -> list[str]:
    """Which runs were judged on the same data, with the best constant answer there; a sentence for each set of data."""
    groups: dict[tuple[str, str, float], list[str]] = {}
    for run in runs:
        constant = (run.summary or {}).get("best_constant")
        if constant:
            where = str((run.summary or {}).get("val_data"))
            groups.setdefault((where, constant["answer"], constant["score"]), []).append(run.name)
    return [
        f"Best constant answer on the validation data of {', '.join(names)}: '{answer}', {percent(score)}."
        for (_, answer, score), names in groups.items()
    ]


def percent(share: float | None, decimals: int = 2) -> str:
    """A share as percent, or a dash for what is no number."""
    return f"{100 * share:.{decimals}f}" if is_number(share) else UNKNOWN


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The options that are not the same in all configs, with the value of each in order; the run's name left out."""
    flat = [dict(flattened(config)) for config in configs]
    keys = dict.fromkeys(key for own in flat for key in own)
    told = [
        (key, [own.get(key, UNKNOWN) for own in flat]) for key in keys if key not in ("name", "output_dir", "resume")
    ]
    return [(key, values) for key, values in told if len(set(values)) > 1]


def flattened(config: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Dotted option names with their values as text, in the order of the file."""
    pairs: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            pairs += flattened(value, f"{above}{name}.")
        else:
            pairs.append((f"{above}{name}", UNKNOWN if value is None else str(value)))
    return pairs
