"""What a training step of each row costs, measured apart from the runs: one row after the other, in turn, undisturbed.

A run's own examples per second are no fair measure: others run beside it. Here every round measures every row on the
same ranks and threads, and the next round goes the other way, so that a machine that grows slower favours nobody.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from adaptive_ft.build import build
from adaptive_ft.comparing.recipe import CostPlan, Recipe
from adaptive_ft.config import RunConfig
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.errors import UserError
from adaptive_ft.tracking import Progress
from adaptive_ft.trainer import Trainer
from adaptive_ft.whole_files import read_json_object, write_whole

WARM_UPDATES = 3
"""The first updates allocate what the later ones use again."""


@dataclass
class StepCosts:
    """Median seconds of an update by row, one number a round; `refused` are rows that cannot be built, and why."""

    fingerprint: str
    ranks: int
    threads: int
    updates: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def relative_to(self, reference: str) -> dict[str, list[float]]:
        """By row and round, seconds / seconds of the reference in the same round; nothing without the reference."""
        of_reference = self.seconds.get(reference, [])
        return {
            row: [own / other for own, other in zip(seconds, of_reference, strict=True)]
            for row, seconds in self.seconds.items()
            if of_reference
        }

    def save(self, path: Path) -> None:
        """Write the JSON that `load_costs` reads."""
        write_whole(path, json.dumps(asdict(self), indent=1))


def load_costs(path: Path, recipe: Recipe) -> StepCosts | None:
    """What was measured before; None where nothing was, with other options than the recipe's, or where the file is
    damaged: it is measured again then.
    """
    try:
        found = read_json_object(path)
        return StepCosts(**found) if found and found.get("fingerprint") == recipe.fingerprint else None
    except (UserError, TypeError):
        return None


def measure(recipe: Recipe, plan: CostPlan, ranks: Ranks, watch: Watchdog) -> StepCosts:
    """The costs of all rows of a recipe, by its plan (collective); its base and data are there."""
    costs = StepCosts(recipe.fingerprint, ranks.world_size, torch.get_num_threads(), plan.updates)
    rows = list(recipe.rows)
    with Progress("cost", plan.rounds * len(rows), 0, ranks.is_main) as progress:
        for number in range(plan.rounds):
            for row in rows if number % 2 == 0 else reversed(rows):
                if row in costs.refused:
                    continue
                try:
                    seconds = seconds_of_update(recipe.rows[row], plan.updates, ranks, watch)
                except UserError as error:
                    costs.refused[row] = str(error)
                    costs.seconds.pop(row, None)  # of earlier rounds: a row counts in all or in none
                    continue
                costs.seconds.setdefault(row, []).append(seconds)
                progress.advance()
                progress.tell({"row": row, "seconds": f"{seconds:.4f}"})
    return costs


def seconds_of_update(config: RunConfig, updates: int, ranks: Ranks, watch: Watchdog) -> float:
    """The median over `updates` updates of a run made for this alone: of the slowest rank (collective)."""
    with own_folder(ranks) as folder:
        total = WARM_UPDATES + updates
        run = build(replace(config, name="cost", output_dir=folder, max_steps=total, num_train_epochs=1), ranks, watch)
        try:
            trainer = Trainer(run)
            seconds = [_timed(trainer) for _ in range(total)][WARM_UPDATES:]
        finally:
            run.train.close()
            run.sign.leave()
        watch.rest("between two rows")
    del run, trainer
    gc.collect()  # an engine and its model refer to each other
    return float(ranks.max(torch.tensor(statistics.median(seconds), dtype=torch.float64)))


def _timed(trainer: Trainer) -> float:
    began = time.perf_counter()
    trainer.train_step()
    if trainer.ranks.device.type == "cuda":
        torch.cuda.synchronize(trainer.ranks.device)
    return time.perf_counter() - began


@contextmanager
def own_folder(ranks: Ranks) -> Iterator[str]:
    """A folder for runs nobody keeps, the same on all ranks."""
    with tempfile.TemporaryDirectory(prefix="adaptive-ft-cost-") as folder:
        yield ranks.broadcast(folder)
        ranks.barrier()
