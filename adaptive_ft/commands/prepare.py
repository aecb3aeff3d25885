"""adaptive-ft prepare: generate the data and pretrain the base that a run would make by itself before it begins.

Several runs that start at once need it: one of them would make the base, the others would find it half made. On
several ranks: torchrun --nproc-per-node 2 -m adaptive_ft.cli prepare recipes/world.yaml
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from adaptive_ft.config import load_run_config
from adaptive_ft.embedded import prepare_embedded
from adaptive_ft.engine.ranks import Ranks, run_ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.tracking import quiet_libraries


@dataclass
class Command:
    """Make what the runs of some recipes need and this program makes itself; what is there is kept."""

    configs: Positional[list[Path]]
    """Recipes of runs, as for train.py --config; of several the later wins."""

    def run(self) -> None:
        """Prepare on all ranks of the launcher, and end the process."""
        run_ranks(self.prepare_on)

    def prepare_on(self, ranks: Ranks) -> None:
        """Generate and pretrain (collective)."""
        quiet_libraries()
        words = [word for file in self.configs for word in ("--config", str(file))]
        config = ranks.together(lambda: load_run_config(words, loud=ranks.is_main))
        with Watchdog(ranks, config.rank_timeout) as watch:
            prepare_embedded(config, ranks, watch)
        if ranks.is_main:
            print(f"ready: {config.data.train}, {config.model.name or 'random weights'}")
