"""adaptive-ft compare: run several strategies and seeds, and write the original's table with what it lacked.

Every run is an ordinary one of train.py in a process of its own. The same command goes on after an interruption:
finished runs are kept, the others resume from their newest checkpoint.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tyro.conf import Positional

from adaptive_ft.analysis.comparison import (
    ComparedRow,
    Comparison,
    as_text,
    constants_told,
    official_told,
    priors_told,
    seed_run,
)
from adaptive_ft.analysis.comparison_files import TRADEOFF, write_comparison
from adaptive_ft.analysis.report.compared_table import FIGURE
from adaptive_ft.analysis.report.page import write_report
from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.sections import Told
from adaptive_ft.commands.report import page_made
from adaptive_ft.comparing.ground import check_ground, check_sets
from adaptive_ft.comparing.jobs import Failed, run_jobs
from adaptive_ft.comparing.priors import prior_scores
from adaptive_ft.comparing.recipe import PlannedRun, Recipe, load_recipe
from adaptive_ft.comparing.runs import COST, is_finished, measurement, preparation, training
from adaptive_ft.comparing.step_cost import load_costs
from adaptive_ft.engine.preemption import STOPPED
from adaptive_ft.errors import UserError
from adaptive_ft.tracking import quiet_libraries


@dataclass
class Command:
    """Run what a comparison's YAML names and is not finished yet, then write and print its table."""

    recipe: Positional[Path]
    """YAML of the comparison, as recipes/compare/world_small.yaml."""
    jobs: int | None = None
    """Runs at once; default: the recipe's, else two on a CPU with as many cores, one on a GPU."""
    table_only: bool = False
    """Start nothing: print and write the table of what is finished."""

    def run(self) -> None:
        """Prepare, run, measure, write; exit code 1 when a run has failed."""
        quiet_libraries()
        recipe = load_recipe(self.recipe, self.jobs)
        runs = recipe.runs()
        left = [run for run in runs if not is_finished(run)]
        check_ground([run for run in runs if run not in left])  # before hours of work, and after it
        failed: list[Failed] = []
        if not self.table_only:
            with stopped_by_sigterm():
                failed = make(recipe, left)
        if failed and not any(map(is_finished, recipe.runs())):
            raise UserError(" ".join(map(str, failed)))
        comparison = compare(recipe)
        table = write_comparison(comparison, recipe.output_dir)
        told = [Told(read_run(run.folder)) for row in comparison.rows for run in row.runs[:1]]
        report = recipe.output_dir / "report.html"
        write_report(told, report, 0, page_made(), comparison=table)
        figures = f"{recipe.output_dir / FIGURE}, {recipe.output_dir / TRADEOFF}"
        places = {"table": recipe.output_dir / "comparison.md", "figures": figures, "report": report}
        print(f"\n{as_text(comparison)}")
        print("\n".join(f"{what:<10} {place}" for what, place in places.items()))
        if failed:
            print("\n".join(f"error: {failure}" for failure in failed), file=sys.stderr)
            sys.exit(1)


def make(recipe: Recipe, left: list[PlannedRun]) -> list[Failed]:
    """Everything that is not there yet: data and bases, the runs, the cost of a step; what failed of it."""
    print(f"{len(recipe.runs()) - len(left)} of {len(recipe.runs())} runs are finished", flush=True)
    preparing = preparation(recipe, left)
    for job in preparing:
        print(f"{job.name}, once: its progress is in {job.log}", flush=True)
    failed = run_jobs(preparing, 1, "prepare")
    if failed:
        return failed
    check_sets(left)
    failed = run_jobs([training(recipe, run) for run in left], recipe.jobs, "compare")
    if recipe.cost is not None and load_costs(recipe.output_dir / COST, recipe) is None:
        failed += run_jobs([measurement(recipe)], 1, "cost")
    return failed


def compare(recipe: Recipe) -> Comparison:
    """The table of the runs that are finished; raises UserError when none is, or some do not belong together."""
    runs = recipe.runs()
    finished = [run for run in runs if is_finished(run)]
    if not finished:
        raise UserError(f"No run of '{recipe.path}' is finished in '{recipe.runs_dir}': start it without --table-only.")
    check_ground(finished)
    costs = load_costs(recipe.output_dir / COST, recipe) if recipe.cost is not None else None
    ratios = costs.relative_to(recipe.reference) if costs and recipe.reference else {}
    rows = [
        ComparedRow(
            row,
            [seed_run(run.folder, run.seed, recipe.validation) for run in finished if run.row == row],
            ratios.get(row, ()),
        )
        for row in recipe.rows
    ]
    comparison = Comparison(list(recipe.validation), rows, reference=recipe.reference)
    missing = [str(run.config.name) for run in runs if run not in finished]
    notes = [
        *([recipe.note] if recipe.note else []),
        "Scores in percent, of questions the soft ones: mean ± sample standard deviation over seeds"
        f" {', '.join(map(str, recipe.seeds))}; gap: train minus validation; parameters trainable + frozen; peak: most"
        " memory of a rank's process in training; tuned: share of the components that can reach the answer (blockdrop:"
        f" share of the layers used), {comparison.validation[0]}.",
        *official_told(comparison),
        constants_told(comparison),
        *_priors_told(recipe),
        _cost_told(recipe, costs.threads if costs else None),
        *([f"Not finished: {', '.join(missing)}."] if missing else []),
    ]
    return replace(comparison, notes=notes)


def _priors_told(recipe: Recipe) -> list[str]:
    try:
        return priors_told(prior_scores(recipe))
    except UserError as gone:  # a table can be looked at without its data
        return [f"What the answers of training alone would score is not known: {gone}"]


def _cost_told(recipe: Recipe, threads: int | None) -> str:
    if recipe.cost is None:
        return "The cost of a step is not measured: the recipe does not ask for it."
    if threads is None:
        return f"The cost of a step has not been measured with these rows and options: adaptive-ft cost {recipe.path}"
    return (
        f"Step cost: seconds of an update relative to '{recipe.reference}', median (least to most) of"
        f" {recipe.cost.rounds} rounds of {recipe.cost.updates} updates, one row after the other on {recipe.ranks}"
        f" rank(s) of {threads} thread(s)."
    )


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does, so that the runs save; exit code 75, go on with the same command."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        print("stopped on request: the same command goes on", file=sys.stderr, flush=True)
        raise SystemExit(STOPPED)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
