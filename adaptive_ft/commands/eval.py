"""adaptive-ft eval: answer the questions of any shard set with a trained run: with its policy, or forced to one
half.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from adaptive_ft.data.choice import DataConfig, all_questions, open_shards
from adaptive_ft.data.shard_set import ShardSet
from adaptive_ft.data.stream import EvalStream
from adaptive_ft.engine.checkpoint import write_atomically
from adaptive_ft.engine.deepspeed_engine import DTYPES
from adaptive_ft.engine.ranks import start_ranks
from adaptive_ft.evaluation import Evaluation, evaluate
from adaptive_ft.saving import Restored, restore
from adaptive_ft.tasks.vqa import VqaTask
from adaptive_ft.tasks.vqa_accuracy import best_constant_answer
from adaptive_ft.tracking import quiet_libraries


@dataclass
class Command:
    """Evaluate a run's checkpoint on a shard set; every question once, deterministic gates."""

    checkpoint: Path
    """Run folder, as train.py made it."""
    shards: Path | None = None
    """Folder of shards; default: the validation shards of the run."""
    which: Literal["latest", "best"] = "latest"
    policy: Literal["network", "frozen", "tuned"] = "network"
    """Let the policy network decide, or force every component."""
    batch_size: int = 128
    predictions: Path | None = None
    """Write [{"question_id", "answer"}, ...], the form of the official evaluation server."""

    def run(self) -> None:
        """Restore, evaluate, print."""
        quiet_libraries()
        restored = restore(self.checkpoint, self.which)
        config = restored.config
        folder = str(self.shards or config.data.val)
        shards = open_shards(folder, DataConfig(blind=config.data.blind))
        evaluation = self._evaluate(restored, shards)
        print(f"{self.checkpoint} ({self.which}, update {restored.step}, policy {self.policy}) on {folder}")
        self._print(evaluation, shards, restored.answer_table)
        if self.predictions is not None:
            answers = [{"question_id": number, "answer": answer} for number, answer in evaluation.answers.items()]
            write_atomically(self.predictions, json.dumps(answers))
            print(f"predictions in {self.predictions}")

    def _evaluate(self, restored: Restored, shards: ShardSet) -> Evaluation:
        ranks = start_ranks()
        dtype = DTYPES[restored.config.precision]
        model = restored.model.to(ranks.device, dtype).eval()
        task = VqaTask(
            restored.answer_table,
            restored.tokenizer,
            max_question_length=restored.config.task.max_question_length,
        )
        stream = EvalStream(shards, batch_size=self.batch_size, rank=ranks.rank, world_size=ranks.world_size)
        forward = functools.partial(model, policy=None if self.policy == "network" else self.policy)
        torch.manual_seed(restored.config.seed)
        return evaluate(forward, stream, shards.num_examples, task, model.tying, ranks, dtype)

    def _print(self, evaluation: Evaluation, shards: ShardSet, answer_table: list[str]) -> None:
        assert evaluation.report is not None
        rows = {"all": evaluation.report.overall, **evaluation.report.by_answer_type}
        print(f"{'':12} {'questions':>9} {'soft':>7} {'official':>9}")
        for name, score in rows.items():
            told = score.percent()
            official = "-" if told["official"] is None else f"{told['official']:.2f}"
            print(f"{name:12} {told['num_questions']:9} {told['soft']:7.2f} {official:>9}")
        constant = best_constant_answer(all_questions(shards), answer_table)
        told = constant.score.percent()
        official = "-" if told["official"] is None else f"{told['official']:.2f}"
        print(f"best constant answer '{constant.answer}': soft {told['soft']:.2f}, official {official}")
        usage = evaluation.usage.summary()
        print(
            f"tuned {100 * usage['mean_tuned_share']:.1f} % of live components; {usage['decisions']} live decisions,"
            f" {usage['always_on']} always tuned, {usage['always_off']} never"
        )
