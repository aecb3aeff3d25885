"""One pass over a set of questions: every question exactly once over all ranks, deterministic gates, scores and gate
usage.

Serves the trainer (under DeepSpeed) and `adaptive-ft eval` (the bare model) alike: both hand in a callable forward.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_ft.analysis.usage import UsageMeter
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder, GatesDiverged
from adaptive_ft.strategies import Tying
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.task import Task
from adaptive_ft.tasks.vqa_accuracy import AccuracyMeter, AccuracyReport

Watch = Callable[[TaskBatch, Tensor, Tensor], None]


@dataclass(frozen=True)
class Evaluation:
    """What a pass found; the report (None where nothing was judged) and the answers by question id are on rank 0
    only.
    """

    report: AccuracyReport | None
    answers: dict[int, str]
    usage: UsageMeter


class Unsound:
    """Remembers this rank's questions whose logits or gates are no finite numbers; a `watch` of a `Pass`."""

    def __init__(self) -> None:
        self.question_ids: list[int] = []

    def __call__(self, batch: TaskBatch, logits_BA: Tensor, gates_BD: Tensor) -> None:
        """Look at a batch; waits for the device, as whoever scores the answers does."""
        sound_B = logits_BA.isfinite().all(dim=1) & gates_BD.isfinite().all(dim=1) | ~batch.valid_B
        rows = zip(batch.questions, sound_B.tolist(), strict=True)
        self.question_ids += [question.question_id for question, sound in rows if not sound]

    def refuse(self, ranks: Ranks, address: str, holder: GateHolder) -> None:
        """Raise UserError on all ranks where any has such a question of the shards at `address`, or gates in `holder`
        that are neither 0 nor 1 (collective: no rank may raise by itself before it).
        """
        told = ranks.gather((self.question_ids, _are_faulty(holder)))
        found = [number for numbers, _ in told for number in numbers]
        ranks.on_main(lambda: _refuse_unsound(found, any(faulty for _, faulty in told), address))


def _are_faulty(holder: GateHolder) -> bool:
    try:
        holder.check()
    except GatesDiverged:
        return True
    return False


def _refuse_unsound(found: list[int], gates_are_faulty: bool, address: str) -> None:
    if found:
        raise UserError(
            f"The model gives no finite numbers for {len(found)} examples of '{address}', the first is {min(found)}:"
            " such answers cannot be judged. Where their features or pictures are sound, the weights are not, or bf16"
            " is too narrow for them."
        )
    if gates_are_faulty:
        raise UserError(
            f"The model's gates for '{address}' are neither 0 nor 1: its policy has diverged, and such answers cannot"
            " be judged."
        )


@dataclass(frozen=True)
class Pass:
    """One pass over the `num_questions` questions of `stream`.

    `forward` takes the task's inputs and returns a model output with `gates`; floating-point inputs come as `dtype`.
    `watch` is shown every batch with its logits [B, A] and gates [B, D].
    """

    forward: Callable[..., Any]
    stream: Iterable[Any]
    num_questions: int
    task: Task
    tying: Tying
    ranks: Ranks
    dtype: torch.dtype
    watch: Watch

    def judge(self) -> Evaluation:
        """Answer all questions and judge the answers (collective).

        Raises:
            ValueError: fewer or more questions were answered than the manifest counts.
        """
        accuracy, usage = AccuracyMeter(), UsageMeter(self.tying)
        for batch, logits_BA in self._answered(usage):
            scores = self.task.soft_scores(logits_BA, batch).tolist()
            accuracy.update(batch.questions, self.task.answers(logits_BA), scores, batch.valid_B.tolist())
        usage.reduce(self.ranks.sum)
        records = self.ranks.gather(accuracy.records)
        if not self.ranks.is_main:
            return Evaluation(None, {}, usage)
        everything = AccuracyMeter()
        for part in records:
            everything.merge(part)
        answers = {number: record["answer"] for number, record in everything.records.items()}
        return Evaluation(everything.report(expected=self.num_questions), answers, usage)

    def answer(self) -> Evaluation:
        """Answer all questions, without judging: for those whose answers are not public (collective).

        Raises:
            ValueError: fewer or more questions were answered than the manifest counts.
        """
        own: dict[int, str] = {}
        usage = UsageMeter(self.tying)
        for batch, logits_BA in self._answered(usage):
            rows = zip(batch.questions, self.task.answers(logits_BA), batch.valid_B.tolist(), strict=True)
            own |= {question.question_id: given for question, given, valid in rows if valid}
        usage.reduce(self.ranks.sum)
        answers = {number: given for part in self.ranks.gather(own) for number, given in part.items()}
        if self.ranks.is_main and len(answers) != self.num_questions:
            raise ValueError(f"{len(answers)} questions were answered but the shards hold {self.num_questions}")
        return Evaluation(None, answers, usage)

    def _answered(self, usage: UsageMeter) -> Iterator[tuple[TaskBatch, Tensor]]:
        """Every batch with its logits [B, A]; its gates are counted."""
        for raw in self.stream:
            batch = self.task.collate(raw).to(self.ranks.device, self.dtype)
            with torch.no_grad():
                outputs = self.forward(**batch.inputs)
            logits_BA = self.task.logits(outputs)
            usage.update(outputs.gates, batch.valid_B)
            self.watch(batch, logits_BA, outputs.gates)
            yield batch, logits_BA
