"""adaptive-ft cost: what a training step of each row of a comparison costs, measured one after the other.

`adaptive-ft compare` does it after the runs; alone it measures again.
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from adaptive_ft.comparing.recipe import CostPlan, Recipe, load_recipe
from adaptive_ft.comparing.runs import COST
from adaptive_ft.comparing.step_cost import StepCosts, measure
from adaptive_ft.embedded import prepare_embedded
from adaptive_ft.engine.ranks import Ranks, run_ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.errors import UserError
from adaptive_ft.tracking import quiet_libraries


@dataclass
class Command:
    """Measure the cost of a step of every row of a comparison; nothing else should run meanwhile."""

    recipe: Positional[Path]
    """YAML of the comparison, as recipes/compare/world.yaml."""

    def run(self) -> None:
        """Measure on all ranks of the launcher, and end the process."""
        run_ranks(self.measure_on)

    def measure_on(self, ranks: Ranks) -> None:
        """Build, time, write cost.json and print (collective)."""
        quiet_libraries()
        recipe, plan = ranks.together(self._planned)
        with Watchdog(ranks, max(config.rank_timeout for config in recipe.rows.values())) as watch:
            for config in recipe.rows.values():
                prepare_embedded(config, ranks, watch)
            costs = measure(recipe, plan, ranks, watch)
        ranks.on_main(lambda: _keep(recipe, costs))

    def _planned(self) -> tuple[Recipe, CostPlan]:
        recipe = load_recipe(self.recipe)
        if recipe.cost is None:
            raise UserError(
                f"'{self.recipe}' does not say how costs are measured: add cost: {{rounds: 3, updates: 10}}."
            )
        return recipe, recipe.cost


def _keep(recipe: Recipe, costs: StepCosts) -> None:
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    costs.save(recipe.output_dir / COST)
    for row, seconds in costs.seconds.items():
        print(f"{row}: {' '.join(f'{1000 * second:.1f}' for second in seconds)} ms a step")
    for row, refusal in costs.refused.items():
        print(f"{row}: {refusal}")
