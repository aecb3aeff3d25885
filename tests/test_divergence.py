"""What is no number in an evaluation is told as such, and a look costs every rank the same collectives."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_ft.build import Run, build
from adaptive_ft.config import load_run_config
from adaptive_ft.divergence import Divergence
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GatesDiverged
from adaptive_ft.trainer import Trainer

Built = Callable[..., Run]


@pytest.fixture
def built(tiny: Callable[..., list[str]], ranks: Ranks, tmp_path: Path) -> Built:
    """A run of two updates."""

    def made(*more: str) -> Run:
        words = ("--output_dir", str(tmp_path), "--max_steps", "2", "--no-eval_on_start")
        words += ("--per_device_eval_batch_size", "16")
        return build(load_run_config(tiny("poisoned", *words, *more)), ranks)

    return made


def poison_answers(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
    """The first question of every batch of an evaluation is answered by no numbers."""
    if not module.training:
        outputs.question_answering_score[0] = float("nan")


def poison_decisions(module: torch.nn.Module, inputs: Any, logits_BD2: Tensor) -> Tensor | None:
    """In an evaluation the policy gives no numbers."""
    return None if module.training else logits_BD2 * float("nan")


def told_of(run: Run) -> str:
    with pytest.raises(UserError) as told:
        Trainer(run).fit()
    assert not list(run.folder.path.glob("checkpoints/step*"))
    return str(told.value)


def test_answers_that_are_no_numbers_are_never_scored(built: Built) -> None:
    """Of a model without a policy: the questions at fault are named, and not those of the training."""
    run = built("--strategy", "standard")
    run.parts.model.base.register_forward_hook(poison_answers)
    sentence = told_of(run)
    assert sentence.startswith("The model diverged in the evaluation after update 2: its logits or gates are no finite")
    assert f"Its questions are in {run.folder.diverged_file}." in sentence
    found = json.loads(run.folder.diverged_file.read_text())
    (rank,) = found.pop("ranks")
    assert found == {"update": 2, "during": "evaluation"}
    batches = [[question.question_id for question in batch.questions] for batch in run.open_val(run.parts.val_shards)]
    assert rank["question_ids"] == [numbers[0] for numbers in batches]
    assert len(batches[0]) > 1, "the others were sound"


def test_decisions_that_are_no_numbers_in_an_evaluation(built: Built) -> None:
    """All ranks come to its end first; after the training the model refuses such decisions at once."""
    run = built("--strategy", "spottune_block")
    run.parts.model.policy.register_forward_hook(poison_decisions)
    assert "in the evaluation after update 2:" in told_of(run)
    with pytest.raises(GatesDiverged):
        run.parts.model.holder.set(torch.full((2, 1), float("nan")))


def test_a_disk_that_refuses_the_questions_does_not_hide_the_divergence(built: Built, small_disk: Path) -> None:
    """It is full when the evaluation begins."""
    run = built("--strategy", "standard", "--output_dir", str(small_disk))

    def fill(module: torch.nn.Module, inputs: Any) -> None:
        if not module.training:
            with contextlib.suppress(OSError), (small_disk / "ballast").open("ab", buffering=0) as stream:
                while True:
                    stream.write(bytes(512))

    run.parts.model.base.register_forward_pre_hook(fill)
    run.parts.model.base.register_forward_hook(poison_answers)
    sentence = told_of(run)
    assert "diverged in the evaluation after update 2" in sentence
    assert f"Its questions could not be kept: '{run.folder.diverged_file}' could not be written: No space" in sentence


def test_ranks_that_know_different_things_meet_in_the_same_collective(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that knows of a divergence asks the others first, as they ask it."""
    run = built("--strategy", "standard")
    asked: list[list[float]] = []
    most = Ranks.max

    def counted(ranks: Ranks, values: Tensor) -> Tensor:
        asked.append(values.tolist())
        return most(ranks, values)

    monkeypatch.setattr(Ranks, "max", counted)
    divergence = Divergence(run)
    divergence.look()
    run.engine.updates = 3
    run.engine._watch(torch.tensor(float("nan")))
    with pytest.raises(UserError, match="The training diverged at update 3"):
        divergence.look()
    assert [values[0] for values in asked] == [float("-inf"), -3.0]
