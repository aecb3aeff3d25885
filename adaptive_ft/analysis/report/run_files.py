"""What a run's folder holds, read again: config, summary, epochs, speed, and the usage of every epoch.

A run that is still going on, or was cut off, has some of it; nothing here needs a checkpoint or a model.
Shapes: C components.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from adaptive_ft.analysis.table import SUMMARY
from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.errors import UserError
from adaptive_ft.strategies import Tying, tie
from adaptive_ft.whole_files import read_json_object

CONFIG = "config.yaml"
EPOCH = "epoch/"
SPEED = "time/examples_per_second"
PEAK = "time/peak_memory_gib"
ALSO_VAL = "also_val.json"
_USAGE_FILE = re.compile(r"usage_(train|val)_epoch(\d+)\.csv")
Usage = dict[str, dict[int, tuple[float, ...]]]
"""Shares [C] by split ("train", "val") and epoch."""


@dataclass(frozen=True)
class RunFiles:
    """A run as its folder tells it.

    `summary` is None while the run has not finished; `epochs` are the records of metrics.jsonl without their prefix,
    `losses` its (update, loss) pairs, `also_val` the scores on further validation sets by address, `peak_memory_gib`
    the most of a rank in training, `speed` the median of its examples per second; `start_score` is the validation score
    before training.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any] | None
    epochs: list[dict[str, float]]
    losses: list[tuple[float, float]]
    also_val: dict[str, Any]
    peak_memory_gib: float | None
    speed: float | None
    start_score: float | None
    components: ComponentMap | None
    usage: Usage

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def strategy(self) -> str:
        """As the config spells it."""
        return str(self.options("adapt").get("strategy", "unknown"))

    @property
    def finished(self) -> bool:
        """Whether there is a summary."""
        return self.summary is not None

    def options(self, *names: str) -> dict[str, Any]:
        """The options under these names, one below the other; empty where the config has none there."""
        found: Any = self.config
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def tying(self) -> Tying | None:
        """How the strategy ties the components, None where no epoch has told them.

        Raises:
            UserError: the config names no strategy, an unknown one, or frozen layers that the model does not have.
        """
        if self.components is None:
            return None
        strategy = self.options("adapt").get("strategy")
        frozen = self.options("adapt").get("frozen_layers") or ()
        if not isinstance(strategy, str):
            raise UserError(f"{self.folder / CONFIG} names no adapt.strategy.")
        if not isinstance(frozen, Sequence) or not all(isinstance(layer, int) for layer in frozen):
            raise UserError(f"adapt.frozen_layers is {frozen}, no list of layers' numbers.")
        return tie(strategy, self.components, frozen)


def read_run(folder: Path) -> RunFiles:
    """Read all that is there.

    Raises:
        UserError: no run folder, or one of its files is not what a run writes.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"'{folder}' is not a run folder: it has no {CONFIG}; give one that train.py made.")
    lines = list(_metrics(folder / "metrics.jsonl"))
    records = {line[f"{EPOCH}epoch"]: line for line in lines if f"{EPOCH}epoch" in line}
    peaks = [line[PEAK] for line in lines if is_number(line.get(PEAK))]
    speeds = [line[SPEED] for line in lines if is_number(line.get(SPEED))]
    components, usage = _usage(folder / "plots")
    return RunFiles(
        folder=folder,
        config=_mapping(folder / CONFIG, (folder / CONFIG).read_text(encoding="utf-8")),
        summary=read_json_object(folder / SUMMARY),
        epochs=[
            {k.removeprefix(EPOCH): v for k, v in records[e].items() if k.startswith(EPOCH)} for e in sorted(records)
        ],
        losses=[(line["step"], line["train/loss"]) for line in lines if "train/loss" in line],
        also_val=read_json_object(folder / ALSO_VAL) or {},
        peak_memory_gib=max(peaks, default=None),
        speed=statistics.median(speeds) if speeds else None,
        start_score=next((line["val/score"] for line in lines if line["step"] == 0 and "val/score" in line), None),
        components=components,
        usage=usage,
    )


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file can be drawn and compared: neither NaN nor infinite, nor something else."""
    return isinstance(value, int | float) and math.isfinite(value)


def _mapping(path: Path, text: str) -> dict[str, Any]:
    """YAML, and with it JSON, that holds an object; UserError for anything else."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings; it is not what a run writes.")
    return content


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines up to one that a kill has torn."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
            content["step"] = float(content["step"])
        except (ValueError, KeyError, TypeError):
            return
        yield content


def _usage(plots: Path) -> tuple[ComponentMap | None, Usage]:
    """The components, and the shares of every epoch whose file lists the same ones."""
    components: ComponentMap | None = None
    usage: Usage = {}
    for path in sorted(plots.glob("usage_*.csv")):
        named = _USAGE_FILE.fullmatch(path.name)
        if named is None:
            continue
        listed, shares_C = _usage_file(path)
        components = components or listed
        if listed != components:
            raise UserError(f"{path} lists other components than the files beside it: two runs wrote into one folder.")
        usage.setdefault(named[1], {})[int(named[2])] = shares_C
    return components, usage


def _usage_file(path: Path) -> tuple[ComponentMap, tuple[float, ...]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        parts = [Component(row["layer"], row["part"], int(row["head"]) if row["head"] else None) for row in rows]
        live = tuple(row["live"] == "1" for row in rows)
        return ComponentMap(tuple(parts), live), tuple(float(row["tuned_share"]) for row in rows)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): it is not what a run writes.") from error
