"""A training whose loss, gradients or gates are no finite numbers any more stops, and keeps that update's questions.

The engine watches the gradients on the device; nobody waits for it until the next record, evaluation or save looks.
Until then each rank remembers what it has fed since the last look, so that the update and the rank at fault can still
be named. No rank raises in the midst of a step: the others would wait for it in a collective.

    runs/NAME/diverged.json    {"update", "ranks": [{"rank", "micro_batches": [{"question_ids", "loss", "sound"}]}]}
"""

import math
from typing import Any

import torch
from torch import Tensor

from adaptive_ft.build import Run
from adaptive_ft.data.reading.batch import Examples
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GatesDiverged

Fed = dict[str, Any]


class Divergence:
    """Remembers this rank's batches since the last look, and ends the run where one look finds it diverged."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._fed: dict[int, list[Fed]] = {}
        run.parts.model.holder.tell_later()

    def feed(self, batch: Examples) -> None:
        """A micro-batch that is about to be trained on, by its question ids."""
        fed = self._fed.setdefault(self._run.engine.updates + 1, [])
        fed.append({"question_ids": [question.question_id for question in batch.questions]})

    def result(self, loss: Tensor, gates_BD: Tensor) -> None:
        """What came of the batch fed last; stays on its device until somebody asks."""
        sound = loss.detach().isfinite() & gates_BD.detach().isfinite().all()
        self._fed[self._run.engine.updates + 1][-1] |= {"loss": loss.detach(), "sound": sound}

    def look(self) -> None:
        """Stop all ranks where an update since the last look has diverged on any (collective; waits for the device).

        Raises:
            UserError: on every rank; one of them tells it.
        """
        ranks, engine = self._run.ranks, self._run.engine
        update = engine.diverged_at()
        faulty = self._gates_are_faulty()
        if update is None and not ranks.max(torch.tensor(float(faulty))):
            # An evaluation may follow whose gates are no numbers: the last update is all that can be told then.
            self._fed = {engine.updates: self._fed.get(engine.updates, [])}
            return
        at = update or engine.updates
        batches = [_told(fed) for fed in self._fed.get(at, [])]
        own = {"rank": ranks.rank, "micro_batches": batches}
        told = ranks.gather((own, faulty))
        ranks.on_main(lambda: self._stop(at, told))

    def _gates_are_faulty(self) -> bool:
        try:
            self._run.parts.model.holder.check()
        except GatesDiverged:
            return True
        return False

    def _stop(self, update: int, told: list[tuple[dict[str, Any], bool]]) -> None:
        """Keep what every rank has told, with whether its gates are faulty, and end the run (rank 0 only)."""
        folder, optim = self._run.folder, self._run.config.optim
        folder.write_diverged({"update": update, "ranks": [own for own, _ in told]})
        guilty = [own["rank"] for own, _ in told if not all(fed["sound"] for fed in own["micro_batches"])]
        guilty = guilty or [own["rank"] for own, faulty in told if faulty]
        raise UserError(
            f"The training diverged at update {update}{_alone(guilty, len(told))}: its loss, gradients or gates are no"
            f" finite numbers. Its questions are in {folder.diverged_file}. Where these are sound, lower"
            f" --optim.learning_rate (now {optim.learning_rate}), warm up longer (--optim.warmup_ratio) or clip harder"
            " (--optim.max_grad_norm)."
        )


def _alone(guilty: list[int], world_size: int) -> str:
    """Which ranks it began at; nothing where that were all, or none of them knows."""
    if len(guilty) in (0, world_size):
        return ""
    return f" on rank{'s' * (len(guilty) > 1)} {', '.join(map(str, guilty))} of {world_size}"


def _told(fed: Fed) -> Fed:
    """In plain values; the loss as a number, or "nan" and the like, which JSON has no numbers for."""
    loss = float(fed["loss"])
    return {**fed, "loss": loss if math.isfinite(loss) else str(loss), "sound": bool(fed["sound"])}
