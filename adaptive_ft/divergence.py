"""A training whose loss or gradients are no finite numbers any more stops, and keeps the questions of that update.

The engine watches the gradients on the device; nobody waits for it until the next record, evaluation or save looks.
Until then each rank remembers what it has fed since the last look, so that the update at fault can still be named.

    runs/NAME/diverged.json    {"update", "ranks": [{"rank", "micro_batches": [{"question_ids", "loss"}]}]}
"""

import json
import time
from typing import Any, NoReturn

import torch.distributed as dist
from torch import Tensor

from adaptive_ft.build import Run
from adaptive_ft.data.reading.batch import Examples
from adaptive_ft.engine.failed_writes import FailedWrite

PATIENCE_SECONDS = 2.0


class Divergence:
    """Remembers this rank's batches since the last look, and ends the run where one look finds it diverged."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._fed: dict[int, list[dict[str, Any]]] = {}

    def feed(self, batch: Examples) -> None:
        """A micro-batch that is about to be trained on, by its question ids."""
        fed = self._fed.setdefault(self._run.engine.updates + 1, [])
        fed.append({"question_ids": [question.question_id for question in batch.questions], "loss": None})

    def loss(self, loss: Tensor) -> None:
        """The loss of the batch fed last; stays on its device until somebody asks."""
        self._fed[self._run.engine.updates + 1][-1]["loss"] = loss.detach()

    def look(self) -> None:
        """Stop where some update since the last look has diverged (the same on every rank; waits for the device)."""
        diverged_at = self._run.engine.diverged_at()
        if diverged_at is not None:
            self.stop(diverged_at)
        self._fed.clear()

    def stop(self, update: int | None = None) -> NoReturn:
        """End the run; by default at the update the engine has seen diverge, else at the one fed last. Not a
        collective: the other ranks may never come.

        Raises:
            UserError: always.
        """
        update = update or self._run.engine.diverged_at() or max(self._fed, default=self._run.engine.updates)
        kept = f"Its questions are in {self._run.folder.diverged_file}."
        try:
            self._keep(update)
        except FailedWrite as failure:
            kept = str(failure)
        optim = self._run.config.optim
        self._run.ranks.stop(
            f"The training diverged at update {update}: its loss or gradients are no finite numbers. {kept}"
            f" Where they are sound, lower --optim.learning_rate (now"
            f" {optim.learning_rate}), warm up longer (--optim.warmup_ratio) or clip harder (--optim.max_grad_norm)."
        )

    def _keep(self, update: int) -> None:
        """The first rank to come writes what every rank that comes has fed in `update`."""
        ranks, generation = self._run.ranks, self._run.folder.generation
        store = dist.distributed_c10d._get_default_store()
        key = f"diverged {generation.own_name if generation else ''}"
        batches = [{**fed, "loss": _told(fed["loss"])} for fed in self._fed.get(update, [])]
        try:
            store.set(f"{key} {ranks.rank}", json.dumps({"rank": ranks.rank, "micro_batches": batches}))
            if store.add(key, 1) > 1:
                return
            patience = time.monotonic() + PATIENCE_SECONDS
            others = [f"{key} {rank}" for rank in range(ranks.world_size)]
            while not store.check(others) and time.monotonic() < patience:
                time.sleep(0.01)
            told = [json.loads(store.get(other)) for other in others if store.check([other])]
        except RuntimeError:
            return  # rank 0, which keeps the store, has told it and gone
        self._run.folder.write_diverged({"update": update, "ranks": told})


def _told(loss: Tensor | None) -> float | str | None:
    """A number, or "nan" and the like, which JSON has no numbers for."""
    if loss is None:
        return None
    value = float(loss)
    return value if abs(value) < float("inf") else str(value)
