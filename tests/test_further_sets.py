"""A finished run judged on further validation sets: once, by its last weights, told apart by what they hold."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.evaluation import Unsound
from adaptive_ft.further_sets import judge_further_sets
from adaptive_ft.gates import GateHolder
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.trainer import Trainer

Tiny = Callable[..., list[str]]


def test_a_further_set_is_judged_by_the_last_weights_and_kept(
    ranks: Ranks, tiny: Tiny, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set of every epoch, judged again, has the score of the summary; a second start judges nothing again."""
    val, indomain = (str(workplace / f"world/target/{part}") for part in ("val", "val_indomain"))
    words = tiny("further", "--data.also_val", val, indomain, "--resume", "auto")
    run = build(load_run_config(words), ranks)
    summary = Trainer(run).fit()
    scores = judge_further_sets(run, iter)
    assert scores == json.loads((run.folder.path / "also_val.json").read_text())
    assert list(scores) == [val, indomain]
    assert scores[val]["score"] == pytest.approx(summary["val_score"], abs=1e-6)
    assert scores[val]["data"] == summary["val_data"] != scores[indomain]["data"]
    assert scores[val]["best_constant"]["answer"] == summary["best_constant"]["answer"]
    assert f"{indomain}: " in capsys.readouterr().out

    again = build(load_run_config(words), ranks)
    Trainer(again).fit()
    kept = {**scores, indomain: {**scores[indomain], "score": 0.123}}
    again.folder.write_also_val(kept)
    assert judge_further_sets(again, iter) == kept
    again.folder.write_also_val({**kept, indomain: {**kept[indomain], "data": "of other shards"}})
    assert judge_further_sets(again, iter)[indomain]["score"] == pytest.approx(scores[indomain]["score"])
    again.folder.also_val_file.write_text("{")
    assert judge_further_sets(again, iter)[val]["score"] == pytest.approx(scores[val]["score"])
    assert "it is not JSON" in capsys.readouterr().out


def test_gates_that_are_no_numbers_are_one_sentence(
    ranks: Ranks, tiny: Tiny, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by all ranks together after the pass, not raised by one in the midst of it; the model refuses them again."""
    indomain = str(workplace / "world/target/val_indomain")
    run = build(load_run_config(tiny("no_numbers", "--data.also_val", indomain)), ranks)
    policy = run.parts.model.policy
    assert policy is not None
    with torch.no_grad():
        for weight in policy.parameters():
            weight.fill_(float("nan"))
    refused: list[Ranks] = []
    refuse = Unsound.refuse

    def noted(own: Unsound, asked: Ranks, address: str, holder: GateHolder) -> None:
        refused.append(asked)
        refuse(own, asked, address, holder)

    monkeypatch.setattr(Unsound, "refuse", noted)
    with pytest.raises(UserError, match=rf"no finite numbers for \d+ examples of '{indomain}'"):
        judge_further_sets(run, iter)
    assert refused == [ranks]
    run.train.close()
    run.sign.leave()


def test_without_further_sets_nothing_is_written(finished_run: RunFolder) -> None:
    assert not finished_run.also_val_file.exists()


def test_a_further_set_that_is_not_there_is_told_before_the_training(ranks: Ranks, tiny: Tiny, workplace: Path) -> None:
    with pytest.raises(UserError, match="gone/val"):
        build(load_run_config(tiny("no_further", "--data.also_val", "gone/val")), ranks)
    assert not (workplace / "runs/no_further").exists()
