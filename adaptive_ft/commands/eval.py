"""adaptive-ft eval: answer the questions of any shard set with a trained run: with its policy, or with one
decision for all inputs. Several ranks share the questions: torchrun --nproc-per-node 2 -m adaptive_ft.cli eval ...
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from adaptive_ft.data.format.manifest import LABELLED_PICTURES, answer_table_hash
from adaptive_ft.data.places.remote import is_remote
from adaptive_ft.data.reading.choice import all_questions, images_by_question, open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.engine.ranks import Ranks, run_ranks
from adaptive_ft.errors import UserError
from adaptive_ft.evaluation import Evaluation, Pass, Unsound
from adaptive_ft.saving import Restored, restore
from adaptive_ft.tasks.vqa_accuracy import AccuracyReport, Score, best_constant_answer, both_forms
from adaptive_ft.tracking import quiet_libraries
from adaptive_ft.whole_files import write_whole


@dataclass
class Command:
    """Evaluate a run's checkpoint on a shard set; every question once, deterministic gates."""

    checkpoint: Path
    """Run folder, as train.py made it."""
    shards: str | None = None
    """Folder or address of shards; default: the validation shards of the run."""
    which: Literal["latest", "best"] = "latest"
    policy: Literal["network", "frozen", "tuned", "used", "global"] = "network"
    """Let the policy network decide (or what the run's adapt.eval_decisions says), force every component (blockdrop:
    use every block), or take the majority of the last epoch's training decisions for every input."""
    batch_size: int = 128
    predictions: Path | None = None
    """Write [{"question_id", "answer"}, ...], the form of the official evaluation server, of labelled pictures with
    their "image_id" besides; a split without public answers can only be answered so.
    """

    report: Path | None = None
    """Write all scores as JSON: overall, by answer type and by question type, in both published forms of the accuracy.
    """

    def run(self) -> None:
        """Answer on all ranks of the launcher, and end the process."""
        run_ranks(self.answer_on)

    def answer_on(self, ranks: Ranks) -> None:
        """Restore, answer, and on the first rank print and write (collective)."""
        quiet_libraries()
        restored, shards = ranks.together(self._open)
        found = self._answered(restored, shards, ranks)
        if not ranks.is_main:
            return
        print(f"{self.checkpoint} ({self.which}, update {restored.step}, policy {self.policy}) on {shards.address}")
        if shards.manifest.answer_table_sha256 not in map(answer_table_hash, (restored.task.answer_table, ())):
            print(f"these shards name other answers; the model chooses among its own {len(restored.task.answer_table)}")
        if found.report is None:
            print(f"{len(found.answers)} {restored.subject.noun} answered; they have no public answers to judge by")
        else:
            print_scores(found.report, restored.subject.noun)
            questions = all_questions(shards)
            if self.report is not None:
                write_whole(self.report, json.dumps(both_forms(questions, found.answers), indent=1))
                print(f"scores in {self.report}")
            constant = best_constant_answer(questions, restored.task.answer_table)
            told = f"soft {_soft(constant.score)}, official {_official(constant.score)}"
            print(f"best constant answer '{constant.answer}': {told}")
        print_usage(found)
        if self.predictions is not None:
            write_whole(self.predictions, json.dumps(predictions_of(found.answers, shards)))
            print(f"predictions in {self.predictions}")

    def _open(self) -> tuple[Restored, ShardSet]:
        """The run and the shards, after everything that can be wrong with either."""
        if self.batch_size < 1:
            raise UserError(f"--batch_size is {self.batch_size}; it must be at least 1.")
        for name, file in (("predictions", self.predictions), ("report", self.report)):
            if file is not None and not file.parent.is_dir():
                raise UserError(f"--{name} '{file}': there is no folder '{file.parent}'.")
        restored = restore(self.checkpoint, self.which)
        words = ("network", "global", *restored.model.tying.unit.constants)
        if self.policy not in words:
            raise UserError(
                f"--policy {self.policy} has no meaning for strategy '{restored.config.adapt.strategy}':"
                f" choose {' or '.join(words)}."
            )
        decides = restored.model.decider.default(training=False) if self.policy == "network" else self.policy
        if decides == "global":
            restored.model.decider.for_all_inputs("global")  # a checkpoint within the first epoch has none
        data = restored.config.data
        if self.shards is None and data.val.startswith("pipe:"):
            raise UserError(
                f"The run's validation shards come from a command, '{data.val}', which is not run unless you name it:"
                " give --shards."
            )
        if self.shards is None and not is_remote(data.val) and not Path(data.val).is_dir():
            raise UserError(
                f"The run's validation shards '{data.val}' are not there, seen from '{Path.cwd()}': start where the"
                " training was started, or name shards with --shards."
            )
        shards = restored.subject.fit(open_set(self.shards or data.val, data), restored.model.base)
        if not shards.manifest.answered and self.predictions is None:
            raise UserError(f"No question in '{shards.address}' has an answer to judge by: give --predictions FILE.")
        return restored, shards

    def _answered(self, restored: Restored, shards: ShardSet, ranks: Ranks) -> Evaluation:
        dtype = torch.bfloat16 if restored.config.precision == "bf16" else torch.float32
        model = restored.model.to(ranks.device, dtype).eval()
        stream = EvalStream(shards, batch_size=self.batch_size, rank=ranks.rank, world_size=ranks.world_size)
        forward = functools.partial(model, policy=None if self.policy == "network" else self.policy)
        torch.manual_seed(restored.config.seed)
        unsound = Unsound()
        one_pass = Pass(forward, stream, shards.num_examples, restored.task, model.tying, ranks, dtype, unsound)
        with model.holder.told_later():
            evaluation = one_pass.judge() if shards.manifest.answered else one_pass.answer()
        unsound.refuse(ranks, shards.address, model.holder)
        return evaluation


def predictions_of(answers: Mapping[int, str], shards: ShardSet) -> list[dict[str, int | str]]:
    """One entry per answer: of questions exactly what the official server takes, of labelled pictures with the
    picture's id, which tells its file where the question's number does not.
    """
    given: list[dict[str, int | str]] = [{"question_id": number, "answer": told} for number, told in answers.items()]
    if shards.manifest.content != LABELLED_PICTURES:
        return given
    pictures = images_by_question(shards)
    return [{"image_id": pictures[number], **entry} for number, entry in zip(answers, given, strict=True)]


def print_scores(report: AccuracyReport, noun: str) -> None:
    """One line for all questions (or other examples) and one per kind of answer."""
    print(f"{'':12} {noun:>9} {'soft':>7} {'official':>9}")
    for name, score in {"all": report.overall, **report.by_answer_type}.items():
        print(f"{name:12} {score.num_questions:9} {_soft(score):>7} {_official(score):>9}")


def print_usage(found: Evaluation) -> None:
    """How much of the model was tuned, in one line."""
    usage = found.usage.summary()
    print(
        f"tuned {100 * usage['mean_tuned_share']:.1f} % of live components; {usage['decisions']} live decisions,"
        f" {usage['always_on']} always tuned, {usage['always_off']} never"
    )


def _soft(score: Score) -> str:
    return f"{score.percent()['soft']:.2f}"


def _official(score: Score) -> str:
    official = score.percent()["official"]
    return "-" if official is None else f"{official:.2f}"
