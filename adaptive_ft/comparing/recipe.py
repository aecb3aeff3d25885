"""A comparison as its YAML says: which rows and seeds, on what the runs stand, and on which data they are judged.

output_dir: runs/compare/world        # the tables
runs_dir: runs/compare/world          # the runs, ROW-seedN; default: output_dir. See docs/compare.md
config: [recipes/world.yaml]          # options of every run, as with --config: of several files the later wins
options: {num_train_epochs: 6}        # options of every run, over those of the files
seeds: [1, 2, 3]
validation:                           # name of a column: shards; the first is judged after every epoch
  shifted: data/world/target/val
  in-domain: data/world/target/val_indomain
reference: standard                   # the row that the others are held against, and their cost of a step relative to
cost: {rounds: 3, updates: 10}        # without it costs are not measured
note: Six epochs only.                # a sentence below the table
ranks: 1                              # of every run
jobs: 2                               # runs at once
rows:
  standard: {adapt: {strategy: standard}}
  last_4: {config: [recipes/strategies/last_4.yaml]}   # options of the row, over those of every run
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from adaptive_ft.checks import check_options
from adaptive_ft.config import RunConfig, dotted_options, load_run_config, option_words, yaml_arguments
from adaptive_ft.errors import UserError, nearest

FILES = "config"
OWN = ("name", "output_dir", "resume", "stop_file", "seed")
"""Options of a run that the comparison sets."""
_ROW = re.compile(r"[A-Za-z0-9][\w.+-]*")
VAL = "val"
_OF_RUNS = {option.name for option in fields(RunConfig)} - set(OWN)


@dataclass(frozen=True)
class CostPlan:
    """How the cost of a step is measured: `updates` timed updates of every row, `rounds` times in turn."""

    rounds: int = 3
    updates: int = 10


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison; `config` holds its name and place."""

    row: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(self.config.output_dir) / str(self.config.name)


@dataclass(frozen=True)
class Recipe:
    """A comparison; `rows` are the options of each row by its name, without name, place and seed."""

    path: Path
    output_dir: Path
    runs_dir: Path
    seeds: tuple[int, ...]
    rows: Mapping[str, RunConfig]
    validation: Mapping[str, str]
    reference: str | None
    cost: CostPlan | None
    ranks: int
    jobs: int
    note: str | None = None

    def runs(self) -> list[PlannedRun]:
        """All runs, seed by seed, so that an interrupted comparison has seen every row equally often."""
        return [
            PlannedRun(row, seed, self._run_config(config, f"{row}-seed{seed}", seed))
            for seed in self.seeds
            for row, config in self.rows.items()
        ]

    def _run_config(self, config: RunConfig, name: str, seed: int) -> RunConfig:
        return dataclasses.replace(config, name=name, output_dir=str(self.runs_dir), resume="auto", seed=seed)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the cost of a step depends on: the rows' options, the plan, ranks and reference.

        Options at their default count too: another version may have another one.
        """
        told = [repr((row, sorted(dotted_options(config).items()))) for row, config in self.rows.items()]
        plan = repr((self.cost, self.ranks, self.reference))
        return hashlib.sha256("\n".join([plan, *told]).encode()).hexdigest()


def load_recipe(path: Path, jobs: int | None = None) -> Recipe:
    """The comparison of a YAML file, with every run's options read by the parser of train.py; `jobs` wins over its own.

    Raises:
        UserError: no such file or no YAML, an unknown key (with the nearest name), a value of another kind, no row, two
            equal seeds, or options that no run can have.
    """
    content = _read(path)
    known = {
        "output_dir": str, "runs_dir": str, FILES: list, "options": dict, "seeds": list, "rows": dict,
        "validation": dict, "reference": str, "cost": dict, "note": str, "ranks": int, "jobs": int,
    }  # fmt: skip
    _check(content, known, path)
    for key in ("output_dir", "rows"):
        if not content.get(key):
            raise UserError(f"'{path}' has no '{key}': {'name where the runs go' if key != 'rows' else 'name rows'}.")
    validation = _validation(content.get("validation", {}), path)
    shared = [*_words(content, "options", path), *_validation_words(validation)]
    check_options(load_run_config(shared))  # so that only what a row adds is told as the row's mistake
    rows = {str(name): _row(path, str(name), options or {}, shared) for name, options in content["rows"].items()}
    ranks = _counted(content.get("ranks", 1), "ranks", path)
    return Recipe(
        path=path,
        output_dir=Path(content["output_dir"]),
        runs_dir=Path(content.get("runs_dir") or content["output_dir"]),
        seeds=_seeds(content.get("seeds", [1]), path),
        rows=rows,
        validation=validation or {VAL: next(iter(rows.values())).data.val},
        reference=_reference(content.get("reference"), rows, path),
        cost=_cost_plan(content, path),
        ranks=ranks,
        jobs=_counted(jobs or content.get("jobs") or _usual_jobs(ranks), "jobs", path),
        note=content.get("note"),
    )


def _validation(content: Mapping[Any, Any], path: Path) -> dict[str, str]:
    """The addresses by the names of their columns."""
    for name, address in content.items():
        if not isinstance(address, str):
            raise UserError(f"'{path}': validation '{name}' is the address of shards, not {address!r}.")
    return {str(name): address for name, address in content.items()}


def _usual_jobs(ranks: int) -> int:
    """Two runs at once where the cores allow it: small runs do not fill them; one run at a time on a GPU."""
    return 1 if torch.cuda.is_available() else max(1, min(2, len(os.sched_getaffinity(0)) // ranks))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no comparison '{path}'.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The comparison '{path}' is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UserError(f"The comparison '{path}' must hold a mapping, it holds a {type(content).__name__}.")
    return content


def _check(section: Mapping[str, Any], known: Mapping[str, type], path: Path, prefix: str = "") -> None:
    for key, value in section.items():
        if key not in known:
            of_run = " It is an option of runs: give it under 'options'." if key in _OF_RUNS and not prefix else ""
            raise UserError(f"'{path}' has an unknown key '{prefix}{key}'.{of_run or nearest(str(key), known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise UserError(f"'{path}': '{prefix}{key}' is a {known[key].__name__}, not {value!r}.")


def _row(path: Path, name: str, options: Any, shared: list[str]) -> RunConfig:
    """The options of one row over the shared ones."""
    if not _ROW.fullmatch(name):
        raise UserError(f"'{path}': the row '{name}' names folders: use letters, digits and the signs . _ + -")
    if not isinstance(options, dict):
        raise UserError(f"'{path}': the row '{name}' holds options, not the single value {options!r}.")
    own = {key: value for key, value in options.items() if key != FILES}
    try:
        words = _words({FILES: options.get(FILES, []), "options": own}, "options", path)
        config = load_run_config([*shared, *words])
        check_options(config)
    except UserError as error:
        raise UserError(f"row '{name}': {error}") from error
    return config


def _words(content: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """The command line of some files and the options over them."""
    files = content.get(FILES, [])
    files = files if isinstance(files, list) else [files]
    options = content.get(key, {})
    for name in OWN:
        if name in options:
            raise UserError(f"'{path}' sets '{name}' of a run, which the comparison sets itself: leave it out.")
    return [word for file in files for word in yaml_arguments(Path(file))] + option_words(options, path)


def _validation_words(validation: Mapping[str, str]) -> Iterator[str]:
    if validation:
        first, *others = validation.values()
        yield from ("--data.val", first)
        if others:
            yield from ("--data.also_val", *others)


def _seeds(seeds: list[Any], path: Path) -> tuple[int, ...]:
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"'{path}': seeds are {seeds}; give different whole numbers from 0 up.")
    return tuple(seeds)


def _reference(name: str | None, rows: Mapping[str, RunConfig], path: Path) -> str | None:
    if name is not None and name not in rows:
        raise UserError(f"'{path}': the reference '{name}' is no row.{nearest(name, rows)}")
    return name


def _cost_plan(content: Mapping[str, Any], path: Path) -> CostPlan | None:
    plan = content.get("cost")
    if plan is None:
        return None
    if content.get("reference") is None:
        raise UserError(f"'{path}': cost is relative to a row, and there is no reference: name one, or leave cost out.")
    _check(plan, {field.name: int for field in fields(CostPlan)}, path, "cost.")
    way_out = " To measure no costs, leave cost out."
    return CostPlan(**{name: _counted(value, f"cost.{name}", path, way_out) for name, value in plan.items()})


def _counted(number: int, name: str, path: Path, way_out: str = "") -> int:
    if number < 1:
        raise UserError(f"'{path}': {name} is {number}; it must be at least 1.{way_out}")
    return number
