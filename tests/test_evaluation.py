"""A pass over the validation set: every question once, deterministic gates, scores that a second count confirms."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LxmertForQuestionAnswering

from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.evaluation import Evaluation, Pass, Unsound
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import Restored, restore
from adaptive_ft.tasks.task import Task


@pytest.fixture(scope="module")
def shards(workplace: Path) -> ShardSet:
    return ShardSet.open(workplace / "world/target/val")


@pytest.fixture(scope="module")
def restored(finished_run: RunFolder) -> Restored:
    return restore(finished_run.path)


@pytest.fixture(scope="module")
def task(restored: Restored) -> Task:
    return restored.task


def run(
    restored: Restored,
    task: Task,
    shards: ShardSet,
    ranks: Ranks,
    *,
    batch_size: int = 32,
    policy: str | None = None,
    expected: int | None = None,
) -> Evaluation:
    stream = EvalStream(shards, batch_size=batch_size)
    forward = functools.partial(restored.model, policy=policy)
    count = shards.num_examples if expected is None else expected
    return Pass(forward, stream, count, task, restored.model.tying, ranks, torch.float32, Unsound()).judge()


def test_every_question_is_answered_once(restored: Restored, task: Task, shards: ShardSet, ranks: Ranks) -> None:
    """77 questions in batches of 32 (the last one padded): 77 answers of the table, and the report counts 77."""
    found = run(restored, task, shards, ranks)
    asked = [question.question_id for batch in EvalStream(shards, batch_size=77) for question in batch.questions]
    assert sorted(found.answers) == sorted(asked)
    assert set(found.answers.values()) <= set(restored.task.answer_table)
    assert found.report is not None
    assert found.report.overall.num_questions == shards.num_examples
    assert found.usage.num_samples == shards.num_examples, "padding rows are no samples"


def test_the_score_is_the_mean_of_the_answers_scores(
    restored: Restored, task: Task, shards: ShardSet, ranks: Ranks
) -> None:
    """Counted again from the answers and the questions alone."""
    found = run(restored, task, shards, ranks)
    questions = next(iter(EvalStream(shards, batch_size=shards.num_examples))).questions
    scores = [question.scores.get(found.answers[question.question_id], 0.0) for question in questions]
    assert found.report is not None
    assert found.report.overall.soft == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_batch_size_changes_nothing(
    batch_size: int, restored: Restored, task: Task, shards: ShardSet, ranks: Ranks
) -> None:
    """Neither padding nor neighbours in the batch have a say, and there is no noise."""
    expected, found = run(restored, task, shards, ranks), run(restored, task, shards, ranks, batch_size=batch_size)
    assert found.answers == expected.answers
    assert found.report == expected.report
    assert torch.equal(found.usage.decision_shares(), expected.usage.decision_shares())


def test_forced_policies_are_counted_as_such(restored: Restored, task: Task, shards: ShardSet, ranks: Ranks) -> None:
    """All frozen is never, all tuned is always."""
    for policy, share in (("frozen", 0.0), ("tuned", 1.0)):
        found = run(restored, task, shards, ranks, policy=policy)
        assert found.usage.summary()["mean_tuned_share"] == share


def test_a_plain_model_says_the_same_as_all_frozen(
    restored: Restored, task: Task, shards: ShardSet, ranks: Ranks, tiny_base: Path
) -> None:
    """With what always trains put back, all frozen answers as the base does that never saw an adapter."""
    plain = LxmertForQuestionAnswering.from_pretrained(tiny_base).eval()
    always = {name for name, _ in restored.model.base.named_parameters()} & set(plain.state_dict())
    plain.load_state_dict({name: restored.model.base.state_dict()[name] for name in always}, strict=False)
    frozen = run(restored, task, shards, ranks, policy="frozen")
    batch = task.collate(next(iter(EvalStream(shards, batch_size=shards.num_examples)))).to("cpu")
    with torch.no_grad():
        answers = task.answers(task.logits(plain(**batch.inputs)))
    ids = [question.question_id for question in batch.questions]
    assert frozen.answers == dict(zip(ids, answers, strict=True))


def test_a_wrong_count_is_an_error(restored: Restored, task: Task, shards: ShardSet, ranks: Ranks) -> None:
    """A score over fewer questions than the manifest counts would be a wrong score."""
    with pytest.raises(ValueError, match="78"):
        run(restored, task, shards, ranks, expected=shards.num_examples + 1)


def test_answering_gives_the_same_answers_unjudged(
    restored: Restored, task: Task, shards: ShardSet, ranks: Ranks
) -> None:
    """The pass for questions without public answers says what the judged one says."""
    judged = run(restored, task, shards, ranks)
    stream = EvalStream(shards, batch_size=32)
    tying = restored.model.tying
    asked = Pass(restored.model, stream, shards.num_examples, task, tying, ranks, torch.float32, Unsound())
    found = asked.answer()
    assert found.report is None
    assert found.answers == judged.answers
    assert torch.equal(found.usage.decision_shares(), judged.usage.decision_shares())
    with pytest.raises(ValueError, match="77 questions were answered but the shards hold 78"):
        replace(asked, num_questions=78).answer()


@pytest.mark.parametrize("one_pass", [Pass.judge, Pass.answer])
def test_answers_that_are_no_numbers_are_refused(
    one_pass: Callable[[Pass], Evaluation], restored: Restored, task: Task, shards: ShardSet, ranks: Ranks
) -> None:
    """The first of every batch, three of 77; padding rows, which are never judged, do not count."""
    unsound, batches = Unsound(), list(EvalStream(shards, batch_size=32))
    assert not batches[-1].valid_B.all()
    valid = iter([batch.valid_B for batch in batches])

    def forward(**inputs: Tensor) -> Any:
        outputs = restored.model(**inputs)
        logits_BA = task.logits(outputs)
        logits_BA[0, 3], logits_BA[~next(valid)] = float("nan"), float("inf")
        return outputs

    one_pass(Pass(forward, batches, 77, task, restored.model.tying, ranks, torch.float32, unsound))
    first = [batch.questions[0].question_id for batch in batches]
    assert unsound.question_ids == first
    with pytest.raises(UserError, match=rf"no finite numbers for 3 examples of 'here/val', the first is {min(first)}"):
        unsound.refuse(ranks, "here/val", restored.model.holder)


def test_a_sound_pass_is_not_refused(restored: Restored, task: Task, shards: ShardSet, ranks: Ranks) -> None:
    unsound, stream = Unsound(), EvalStream(shards, batch_size=32)
    Pass(restored.model, stream, 77, task, restored.model.tying, ranks, torch.float32, unsound).judge()
    unsound.refuse(ranks, "here/val", restored.model.holder)
    assert not unsound.question_ids
