"""The global decision of a run: the majority of an epoch's training decisions, of all ranks, from training to export.

Mirrors no single module: decider, trainer, saving and the commands hold this together. Shape suffixes: B batch,
D decisions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LxmertForQuestionAnswering

from adaptive_ft.adaptive_files import read_description
from adaptive_ft.build import build
from adaptive_ft.commands.eval import Command
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.tracking import ResumePoint
from adaptive_ft.trainer import Trainer
from tests.models.tiny_families import LXMERT

Tiny = Callable[..., list[str]]
# 122 questions: two epochs of 2 updates each, and checkpoints within them.
WORDS = ("--adapt.strategy", "spottune", "--per_device_train_batch_size", "61", "--max_steps", "4", "--save_steps", "1")
WORDS += ("--save_total_limit", "9")
RANK = """
import sys
import torch
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import run_ranks
from adaptive_ft.trainer import Trainer
from tests.test_global_decisions import watch

def main(ranks):
    for strategy in ("spottune", "blockdrop"):
        words = ["--name", strategy, "--adapt.strategy", strategy]
        run = build(load_run_config([*sys.argv[2:], *words]), ranks)
        seen = watch(run.parts.model)
        Trainer(run).fit()
        trained_BD = torch.cat([gates_BD for training, gates_BD in seen if training])
        torch.save((trained_BD, run.parts.model.global_decisions), f"{sys.argv[1]}/{strategy}.{ranks.rank}.pt")

run_ranks(main)
"""


def watch(model: Any) -> list[tuple[bool, Tensor]]:
    """From here on, whether each forward pass was one of training, and its gates [B, D]."""
    seen: list[tuple[bool, Tensor]] = []

    def note(module: Any, _: Any, output: Any) -> None:
        seen.append((module.training, output.gates.detach().clone()))

    model.register_forward_hook(note)
    return seen


def majority(*gates_BD: Tensor) -> list[int]:
    """Written out: 1 where more than half of all samples take the decision."""
    every_BD = torch.cat(gates_BD)
    return (2 * every_BD.sum(0) > len(every_BD)).int().tolist()


def saved(folder: RunFolder, step: int) -> Any:
    """The global decision in the checkpoint after an update."""
    return read_description(folder.checkpoints.folder / folder.checkpoints.tag(step) / "adaptive")["global_decisions"]


def live(folder: RunFolder) -> list[int]:
    """The numbers of the decisions that reach the answer."""
    return [number for number, is_live in enumerate(restore(folder.path).model.tying.live) if is_live]


def inputs_for(exported: Any) -> dict[str, Tensor]:
    """Three random samples of the run's sizes."""
    inputs = LXMERT.inputs(3) | {"visual_feats": torch.randn(3, 3, exported.config.visual_feat_dim)}
    inputs["input_ids"] %= exported.config.vocab_size
    return inputs


@pytest.fixture(scope="module")
def trained(
    tiny: Tiny, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, list[tuple[bool, Tensor]], dict[str, Any]]:
    """A run judged by its global decision and exported with it; what its forward passes did, and its summary."""
    place = tmp_path_factory.mktemp("global")
    words = ("--output_dir", str(place), "--adapt.eval_decisions", "global", "--export_to", str(place / "exported"))
    run = build(load_run_config(tiny("judged", *WORDS, *words)), ranks)
    seen = watch(run.parts.model)
    return run.folder, seen, Trainer(run).fit()


def test_it_is_the_majority_of_the_epoch_and_rules_its_evaluation(trained: Any) -> None:
    """After each epoch anew; within the first there is none."""
    folder, seen, summary = trained
    steps = [number for number, (training, _) in enumerate(seen) if training]
    assert len(steps) == 4
    halves = [majority(*(seen[number][1] for number in steps[start : start + 2])) for start in (0, 2)]
    assert halves[0] != halves[1], "else nothing is shown below"
    assert [saved(folder, step) for step in (1, 2, 3, 4)] == [None, halves[0], halves[0], halves[1]]
    evaluated = [seen[number][1] for number in range(steps[0], len(seen)) if not seen[number][0]]
    of_first = seen[steps[1] + 1 : steps[2]]
    assert of_first
    assert len(evaluated) > len(of_first)
    for gates_BD in evaluated[: len(of_first)]:
        assert gates_BD.int().unique(dim=0).tolist() == [halves[0]]
    for gates_BD in evaluated[len(of_first) :]:
        assert gates_BD.int().unique(dim=0).tolist() == [halves[1]]
    assert summary["global_decisions_on"] == sum(halves[1][place] for place in live(folder))


def test_the_export_is_the_best_model_under_its_global_decision(trained: Any) -> None:
    folder, _, summary = trained
    exported = LxmertForQuestionAnswering.from_pretrained(folder.path.parent / "exported").eval()
    best = restore(folder.path, "best").model
    assert best.global_decisions is not None
    assert best.global_decisions.int().tolist() == saved(folder, summary["best_step"])
    inputs = inputs_for(exported)
    with torch.no_grad():
        expected = best(**inputs, policy="global").question_answering_score
        torch.testing.assert_close(exported(**inputs).question_answering_score, expected, rtol=0, atol=1e-5)
        assert (expected - best(**inputs, policy="frozen").question_answering_score).abs().max() > 1e-4


@pytest.mark.parametrize("policy", ["global", "network"])
def test_eval_goes_by_it(trained: Any, policy: Any, ranks: Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for, or because the run is judged so: the score is the summary's."""
    folder, _, summary = trained
    Command(folder.path, policy=policy).answer_on(ranks)
    told = capsys.readouterr().out
    assert f" {100 * summary['val_score']:.2f} " in told
    on = summary["global_decisions_on"]
    assert f"{on} always tuned" in told
    assert f"{len(live(folder)) - on} never" in told


def test_within_the_first_epoch_eval_says_that_there_is_none(
    trained: Any, tiny: Tiny, ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks for it, before any question is answered; forced halves need none."""
    folder = trained[0]
    folder.checkpoints.point("latest", folder.checkpoints.tag(1))
    try:
        for policy in ("global", "network"):
            with pytest.raises(UserError, match="there is no global decision yet"):
                Command(folder.path, policy=policy).answer_on(ranks)  # type: ignore[arg-type]
        Command(folder.path, policy="frozen").answer_on(ranks)
        assert "update 1, policy frozen" in capsys.readouterr().out
    finally:
        folder.checkpoints.point("latest", folder.checkpoints.tag(4))


def test_a_resumed_run_has_it_again(tiny: Tiny, ranks: Ranks, tmp_path: Path) -> None:
    """Cut within the second epoch: the first one's decision is there, and at the end the undisturbed run's."""
    place = ("--output_dir", str(tmp_path))
    Trainer(build(load_run_config(tiny("cut", *WORDS, *place)), ranks)).fit()
    folder = RunFolder(tmp_path / "cut")
    first, last = saved(folder, 2), saved(folder, 4)
    for name in ("summary.json", "checkpoints/step_000004/manifest.json"):
        (folder.path / name).unlink()
    folder.checkpoints.point("latest", folder.checkpoints.tag(3))
    run = build(load_run_config(tiny("cut", *WORDS, *place, "--resume", "auto")), ranks)
    trainer = Trainer(run)
    assert trainer._resume() == ResumePoint(3)
    assert run.parts.model.global_decisions is not None
    assert run.parts.model.global_decisions.int().tolist() == first != last
    Trainer(build(load_run_config(tiny("cut", *WORDS, *place, "--resume", "auto")), ranks)).fit()
    assert saved(folder, 4) == last


def test_a_blockdrop_run_is_exported_without_the_layers_it_decides_to_skip(
    tiny: Tiny, ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Judged, evaluated and exported by which layers most training samples use."""
    place = ("--output_dir", str(tmp_path), "--adapt.eval_decisions", "global", "--export_to", str(tmp_path / "out"))
    words = (*WORDS, "--max_steps", "2", "--seed", "3", "--adapt.strategy", "blockdrop", *place)
    run = build(load_run_config(tiny("dropped", *words)), ranks)
    seen = watch(run.parts.model)
    summary = Trainer(run).fit()
    decided = majority(*(gates_BD for training, gates_BD in seen if training))
    assert saved(run.folder, 2) == decided
    assert 0 < sum(decided) < len(decided), "else nothing is shown below"
    assert summary["global_decisions_on"] == sum(decided)
    exported = LxmertForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    assert [exported.config.l_layers, exported.config.r_layers, exported.config.x_layers] == decided
    best, inputs = restore(run.folder.path, "best").model, inputs_for(exported)
    with torch.no_grad():
        expected = best(**inputs, policy="global").question_answering_score
        torch.testing.assert_close(exported(**inputs).question_answering_score, expected, rtol=0, atol=1e-5)
    capsys.readouterr()
    Command(run.folder.path, policy="global").answer_on(ranks)
    assert f" {100 * summary['val_score']:.2f} " in capsys.readouterr().out


@pytest.mark.launch
def test_two_ranks_decide_together(tiny: Tiny, two_ranks: Callable[..., None], tmp_path: Path) -> None:
    """Both hold the majority of what both have seen, which is not that of either alone."""
    words = tiny("together", "--output_dir", str(tmp_path), "--max_steps", "2")
    two_ranks(RANK, tmp_path, *words)
    for strategy in ("spottune", "blockdrop"):
        files = [tmp_path / f"{strategy}.{rank}.pt" for rank in range(2)]
        (first_BD, first_D), (second_BD, second_D) = map(torch.load, files)
        together = majority(first_BD, second_BD)
        assert first_D.int().tolist() == second_D.int().tolist() == together
        assert saved(RunFolder(tmp_path / strategy), 2) == together
        if strategy == "spottune":
            assert together not in (majority(first_BD), majority(second_BD)), "else one rank alone would pass"
