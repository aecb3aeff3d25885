"""A training whose loss, gradients or gates are no finite numbers any more stops, and keeps that update's questions.

The engine watches the gradients on the device; nobody waits for it until the next record, evaluation or save looks.
Until then each rank remembers what it has fed since the last look, so that the update and the rank at fault can still
be named. Of an evaluation it remembers the questions whose logits or gates are none. No rank raises in the midst of a
step: the others would wait for it in a collective.

    runs/NAME/diverged.json
        {"update", "during": "training", "ranks": [{"rank", "micro_batches": [{"question_ids", "loss", "sound"}]}]}
        {"update", "during": "evaluation", "ranks": [{"rank", "question_ids"}]}
"""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from adaptive_ft.build import Run
from adaptive_ft.data.reading.batch import Examples
from adaptive_ft.engine.failed_writes import FailedWrite
from adaptive_ft.errors import UserError
from adaptive_ft.evaluation import Unsound
from adaptive_ft.gates import GatesDiverged

Fed = dict[str, Any]


class Divergence:
    """Remembers this rank's batches since the last look, and ends the run where one look finds it diverged."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._fed: dict[int, list[Fed]] = {}
        self.answered = Unsound()
        """To be shown every batch of an evaluation."""

    def watch(self) -> AbstractContextManager[None]:
        """Inside, gates that are no numbers are left to `look`; outside, the model refuses them at once."""
        return self._run.parts.model.holder.told_later()

    def feed(self, batch: Examples) -> None:
        """A micro-batch that is about to be trained on, by its question ids."""
        fed = self._fed.setdefault(self._run.engine.updates + 1, [])
        fed.append({"question_ids": [question.question_id for question in batch.questions]})

    def result(self, loss: Tensor, gates_BD: Tensor) -> None:
        """What came of the batch fed last; stays on its device until somebody asks."""
        sound = loss.detach().isfinite() & gates_BD.detach().isfinite().all()
        self._fed[self._run.engine.updates + 1][-1] |= {"loss": loss.detach(), "sound": sound}

    def look(self) -> None:
        """Stop all ranks where an update or an evaluation since the last look has diverged on any (collective; waits
        for the device).

        Raises:
            UserError: on every rank; one of them tells it.
        """
        ranks, engine = self._run.ranks, self._run.engine
        update, faulty = engine.diverged_at(), self._gates_are_faulty()
        own = [-math.inf if update is None else -update, faulty, bool(self.answered.question_ids)]
        first, any_faulty, any_unsound = ranks.max(torch.tensor(own, dtype=torch.float64)).tolist()
        if first > -math.inf or (any_faulty and not any_unsound):
            at = engine.updates if first == -math.inf else int(-first)
            batches = [_told(fed) for fed in self._fed.get(at, [])]
            told = ranks.gather(({"rank": ranks.rank, "micro_batches": batches}, faulty))
            ranks.on_main(lambda: self._stop_training(at, told))
        if any_unsound:
            asked = ranks.gather({"rank": ranks.rank, "question_ids": self.answered.question_ids})
            ranks.on_main(lambda: self._stop_evaluation(engine.updates, asked))
        self._fed.clear()

    def _gates_are_faulty(self) -> bool:
        try:
            self._run.parts.model.holder.check()
        except GatesDiverged:
            return True
        return False

    def _stop_training(self, update: int, told: list[tuple[dict[str, Any], bool]]) -> None:
        """Keep what every rank has told, with whether its gates are faulty, and end the run (rank 0 only)."""
        kept = self._keep({"update": update, "during": "training", "ranks": [own for own, _ in told]})
        optim = self._run.config.optim
        guilty = [own["rank"] for own, _ in told if not all(fed["sound"] for fed in own["micro_batches"])]
        guilty = guilty or [own["rank"] for own, faulty in told if faulty]
        raise UserError(
            f"The training diverged at update {update}{_alone(guilty, len(told))}: its loss, gradients or gates are no"
            f" finite numbers. {kept} Where these are sound, lower --optim.learning_rate (now {optim.learning_rate}),"
            " warm up longer (--optim.warmup_ratio) or clip harder (--optim.max_grad_norm)."
        )

    def _stop_evaluation(self, update: int, told: list[dict[str, Any]]) -> None:
        """Keep the questions at fault of every rank, and end the run (rank 0 only)."""
        kept = self._keep({"update": update, "during": "evaluation", "ranks": told})
        guilty = [own["rank"] for own in told if own["question_ids"]]
        raise UserError(
            f"The model diverged in the evaluation after update {update}{_alone(guilty, len(told))}: its logits or"
            f" gates are no finite numbers, though those of the training were. {kept} Where their features or pictures"
            " are sound, the weights are not: those of the base model, or those learned with too high an"
            f" --optim.learning_rate (now {self._run.config.optim.learning_rate})."
        )

    def _keep(self, found: dict[str, Any]) -> str:
        """A sentence about where the questions are, or why nowhere."""
        folder = self._run.folder
        try:
            folder.write_diverged(found)
        except FailedWrite as error:
            return f"Its questions could not be kept: {error}"
        return f"Its questions are in {folder.diverged_file}."


def _alone(guilty: list[int], world_size: int) -> str:
    """Which ranks it began at; nothing where that were all, or none of them knows."""
    if len(guilty) in (0, world_size):
        return ""
    return f" on rank{'s' * (len(guilty) > 1)} {', '.join(map(str, guilty))} of {world_size}"


def _told(fed: Fed) -> Fed:
    """In plain values; the loss as a number, or "nan" and the like, which JSON has no numbers for."""
    loss = float(fed["loss"])
    return {**fed, "loss": loss if math.isfinite(loss) else str(loss), "sound": bool(fed["sound"])}
