"""What a run has counted so far: means and gate usage of the current epoch, the epochs before it, the best, the time.

All of it goes into checkpoints, so that a resumed run tells the same numbers as an undisturbed one.
"""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adaptive_ft.analysis.usage import UsageMeter
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.meters import MeanMeter
from adaptive_ft.strategies import Tying


class Tally:
    """The counts of one run; `ranks` are those that share it."""

    def __init__(self, tying: Tying, ranks: Ranks) -> None:
        self._tying, self._ranks = tying, ranks
        self.epoch_means, self.window, self.usage = MeanMeter(), MeanMeter(), UsageMeter(tying)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self._began = time.monotonic()
        """When the run would have begun, had it been one process from start to end."""

    @property
    def seconds(self) -> float:
        """How long the run has taken, without the time between a stop and its resume."""
        return time.monotonic() - self._began

    def micro_batch(self, values: Mapping[str, Tensor], num_valid: int, gates_BD: Tensor, valid_B: Tensor) -> None:
        """Count the means `values` of `num_valid` examples and the gates [B, D] of those that are valid."""
        self.epoch_means.update(values, num_valid)
        self.window.update(values, num_valid)
        self.usage.update(gates_BD.detach(), valid_B)

    def end_window(self) -> dict[str, float]:
        """Means over all ranks since the last window (collective)."""
        self.window.reduce(self._ranks.sum)
        means, self.window = self.window.means(), MeanMeter()
        return means

    def reduce_epoch(self) -> None:
        """Give every rank the epoch's sums over all of them (collective)."""
        self.epoch_means.reduce(self._ranks.sum)
        self.usage.reduce(self._ranks.sum)

    def end_epoch(self, record: dict[str, Any], update: int) -> bool:
        """Keep the record of the epoch that ended with `update`; whether it is the best one so far."""
        self.history.append(record)
        self.epoch_means, self.usage = MeanMeter(), UsageMeter(self._tying)
        is_best = not self.best or record["val_score"] > self.best["val_score"]
        if is_best:
            self.best = {"val_score": record["val_score"], "step": update}
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint (collective); from here on rank 0 carries the sums of all ranks, as in a resumed run."""
        meters = self._meters()
        for meter in meters.values():
            meter.settle(self._ranks.sum, self._ranks.is_main)
        return {
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
            "meters": {name: meter.state_dict() for name, meter in meters.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`: rank 0 with its sums, the others with the names that they are summed by."""
        self.history, self.best = state["history"], state["best"]
        self._began -= state["seconds"]
        for name, meter in self._meters().items():
            meter.load_state_dict(state["meters"][name])
            if not self._ranks.is_main:
                meter.clear()

    def _meters(self) -> dict[str, MeanMeter | UsageMeter]:
        return {"epoch_means": self.epoch_means, "window": self.window, "usage": self.usage}
