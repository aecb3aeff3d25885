"""adaptive-ft flips: how well the gate gradient of one backward pass foretells what flipping a decision does.

For some validation examples every live decision is flipped alone, by a forward pass; the change of that example's
loss is held against (1 - 2 g) dL/dg.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import Positional

from adaptive_ft.analysis.flip_picture import correlations, predicted_and_true
from adaptive_ft.analysis.flips import PREDICTED, TRUE, TWO_BRANCH, Flips
from adaptive_ft.analysis.pictures import save_figure
from adaptive_ft.analysis.repeatable import device_name
from adaptive_ft.data.reading.choice import open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.examining import address_asked
from adaptive_ft.flipping import FlipPlan, Gates, device, flip_decisions
from adaptive_ft.saving import Restored, restore
from adaptive_ft.tracking import Progress, quiet_libraries
from adaptive_ft.versions import versions
from adaptive_ft.whole_files import write_csv, write_whole

NAME = "flips"
_TOLD = {PREDICTED: "gate gradient", TWO_BRANCH: "gate gradient of two branches", TRUE: "true change of the loss"}


@dataclass
class Command:
    """Flip the decisions of a run one at a time, and compare with its gate gradients."""

    run_folder: Positional[Path]
    """Run folder, as train.py made it, of a strategy with a policy."""
    which: Literal["best", "latest"] = "best"
    """The checkpoint that is asked."""
    shards: str | None = None
    """Folder or address of shards; default: the validation shards of the run."""
    samples: int = 64
    """Examples, spread evenly over the shards; each costs a forward pass per live decision."""
    gates: Gates = "argmax"
    """Flip from the likelier choice of the policy network, or from one drawn as in training."""
    two_branch: bool = False
    """Also take the gate gradients of two branches, as the original: every module runs frozen and tuned (spottune
    on BERT and its kin, VL-BERT, LXMERT)."""
    batch_size: int = 32
    seed: int = 1
    """Of drawn gates."""
    output: Path | None = None
    """Folder for flips.csv, flips.json and flips.png; default: flips in the run's folder."""

    def run(self) -> None:
        """Flip, write, print."""
        if self.samples < 1 or self.batch_size < 1:
            raise UserError("--samples and --batch_size count: give 1 or more.")
        quiet_libraries()
        restored = restore(self.run_folder, self.which)
        shards = self._shards(restored)
        live = sum(restored.model.tying.live)
        torch.manual_seed(self.seed)
        batches = -(-min(self.samples, shards.num_examples) // self.batch_size)
        with Progress(NAME, max(1, batches * live)) as progress:
            plan = FlipPlan(self.samples, self.batch_size, self.gates, self.two_branch)
            flips = flip_decisions(restored, shards, plan, progress.advance)
        self._write(flips, self._facts(restored, shards, flips))

    def _shards(self, restored: Restored) -> ShardSet:
        opened = open_set(address_asked(restored, self.shards), restored.config.data)
        return restored.subject.fit(opened, restored.model.base)

    def _facts(self, restored: Restored, shards: ShardSet, flips: Flips) -> dict[str, Any]:
        return {
            "run": str(self.run_folder), "which": self.which, "step": restored.step, "gates": self.gates,
            "seed": self.seed, "shards": shards.address, "device": device_name(device()), "versions": versions(),
            **flips.summary(),
        }  # fmt: skip

    def _write(self, flips: Flips, facts: dict[str, Any]) -> None:
        folder = self.output or self.run_folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        lines = list(flips.lines())
        write_csv(folder / f"{NAME}.csv", tuple(lines[0]), lines)
        write_whole(folder / f"{NAME}.json", json.dumps(facts, indent=1))
        save_figure(predicted_and_true(flips), folder / f"{NAME}.png")
        asked = f"{facts['samples']} examples x {facts['decisions']} live decisions"
        print(f"{asked}, {100 * facts['tuned_share']:.0f} % tuned, update {facts['step']}")
        for (first, second), by_kind in flips.agreements().items():
            print(f"{_TOLD[first]} and {_TOLD[second]}:")
            for kind, found in by_kind.items():
                sign = "–" if found.same_sign is None else f"{100 * found.same_sign:.0f} %"
                print(f"  {kind:<17} {correlations(found)}; same sign {sign}")
        print(f"in {folder}")
