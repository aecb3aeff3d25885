"""A trained run becomes a folder that other programs load: plain where one set of weights stands for all inputs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LxmertForQuestionAnswering

from adaptive_ft import AdaptiveModel
from adaptive_ft.build import Run, build
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.engine.generation import TakenOver, next_generation
from adaptive_ft.engine.living import ALIVE
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.exported import MARK
from adaptive_ft.exporting import export_adaptive, export_merged, is_mergeable
from adaptive_ft.further_sets import judge_further_sets
from adaptive_ft.judging import Heed
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.trainer import Trainer

Tiny = Callable[..., list[str]]


def questions(feature_size: int) -> dict[str, torch.Tensor]:
    """Three questions for a tiny LXMERT."""
    return {
        "input_ids": torch.randint(1, 20, (3, 6)),
        "visual_feats": torch.randn(3, 4, feature_size),
        "visual_pos": torch.rand(3, 4, 4),
    }


def test_export_gives_a_plain_model_that_answers_alike(workplace: Path, tiny_base: Path) -> None:
    """The standard run's export is a Hugging Face folder with tokenizer, equal to the adapted model's best weights."""
    exported = LxmertForQuestionAnswering.from_pretrained(tiny_base).eval()
    assert AutoTokenizer.from_pretrained(tiny_base)
    restored = restore(workplace / "runs/pretraining", "best")
    inputs = questions(exported.config.visual_feat_dim)
    with torch.no_grad():
        expected = restored.model(**inputs).question_answering_score
        torch.testing.assert_close(exported(**inputs).question_answering_score, expected, rtol=1e-5, atol=1e-5)


def test_a_plain_export_needs_constant_decisions(finished_run: RunFolder, tmp_path: Path) -> None:
    """A policy that decides per input has no one set of weights; nothing is written."""
    restored = restore(finished_run.path)
    assert not is_mergeable(restored)
    with pytest.raises(UserError, match="decides per input, so it cannot be merged"):
        export_merged(restored, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adaptive_export_loads_by_itself(finished_run: RunFolder, tmp_path: Path) -> None:
    """The base comes from where the run had it; gates and answers are those of the run's model."""
    restored = restore(finished_run.path)
    export_adaptive(restored, tmp_path / "out")
    loaded = AdaptiveModel.from_pretrained(None, tmp_path / "out")
    inputs = questions(loaded.base.config.visual_feat_dim)
    with torch.no_grad():
        expected, given = restored.model(**inputs), loaded(**inputs)
    assert torch.equal(given.gates, expected.gates)
    torch.testing.assert_close(given.question_answering_score, expected.question_answering_score)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_adaptive_export_takes_a_random_base_along(tiny: Tiny, ranks: Ranks, tmp_path: Path) -> None:
    """No name brings these weights back: they lie in the export, and it still loads when it has been moved."""
    sizes = ("--model.hidden_size", "8", "--model.num_attention_heads", "2", "--model.intermediate_size", "8")
    layers = ("--model.language_layers", "1", "--model.region_layers", "1", "--model.cross_layers", "1")
    words = ("--model.name", "None", *sizes, *layers, "--max_steps", "1", "--output_dir", str(tmp_path / "runs"))
    run = build(load_run_config(tiny("random", *words)), ranks)
    Trainer(run).fit()
    restored = restore(run.folder.path)
    export_adaptive(restored, tmp_path / "out")
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "out").rename(tmp_path / "moved")
    loaded = AdaptiveModel.from_pretrained(None, tmp_path / "moved")
    assert loaded.frozen_hash() == restored.model.frozen_hash()
    expected = restored.model.adaptive_state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.adaptive_state_dict().items())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_in_bf16_is_exported_from_its_float32_weights(
    stage: int, tiny: Tiny, ranks: Ranks, tmp_path: Path
) -> None:
    """The optimizer's own weights, of which the model holds roundings: the file is float32 with more than 8 bits."""
    words = ("--precision", "bf16", "--strategy", "standard", "--output_dir", str(tmp_path / "runs"))
    run = build(load_run_config(tiny("halved", *words, stage=stage)), ranks)
    Trainer(run).fit()
    restored = restore(run.folder.path)
    assert is_mergeable(restored)
    export_merged(restored, tmp_path / "out")
    exported = load_file(tmp_path / "out/model.safetensors")
    assert {value.dtype for value in exported.values()} == {torch.float32}
    deltas = load_file(restored.place / "adaptive_model.safetensors")
    weight = next(value for name, value in deltas.items() if name.endswith("delta_weight"))
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())
    inside = run.engine.gathered_trainable_state()
    computing = dict(run.engine.module.named_parameters())
    if stage < 3:
        assert all(torch.equal(inside[name].bfloat16(), computing[name].detach().cpu()) for name in inside)


def test_of_two_exports_to_one_place_one_is_refused(workplace: Path, tmp_path: Path) -> None:
    """The other one is whole, whoever comes first: neither writes into, or removes, what the other is writing."""
    place = tmp_path / "out"
    slow, fast = (restore(workplace / "runs/pretraining") for _ in range(2))
    with pytest.raises(UserError, match="is in use: choose a new folder"):
        export_merged(slow, place, lambda: export_merged(fast, place))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert LxmertForQuestionAnswering.from_pretrained(place)
    assert AutoTokenizer.from_pretrained(place)


def test_a_start_that_is_overtaken_while_it_exports_leaves_nothing(
    tiny: Tiny, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it is seen alive in its folder; at the rename it finds that the run is another start's."""
    words = ("--strategy", "standard", "--max_steps", "1", "--export_to", str(tmp_path / "out"))
    run = build(load_run_config(tiny("exports", *words, "--output_dir", str(tmp_path / "runs"))), ranks)
    seen, save = [], LxmertForQuestionAnswering.save_pretrained

    def overtaken(*given: Any, **named: Any) -> None:
        save(*given, **named)
        if Path(given[1]).name.startswith("out.unfinished"):
            seen.append((run.folder.path / ALIVE).is_file())
            next_generation(run.folder.path)

    monkeypatch.setattr(LxmertForQuestionAnswering, "save_pretrained", overtaken)
    with pytest.raises(TakenOver):
        Trainer(run).fit()
    assert seen == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_command_of_a_run_that_has_exported_finds_nothing_left(
    tiny: Tiny, ranks: Ranks, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The further sets are judged before the export, whose own mark alone lets the same command start again."""
    out, val = tmp_path / "out", str(workplace / "world/target/val")
    words = ("--strategy", "standard", "--export_to", str(out), "--data.also_val", val, "--resume", "auto")

    def given(name: str, steps: int) -> RunConfig:
        return load_run_config(tiny(name, *words, "--output_dir", str(tmp_path / "runs"), "--max_steps", str(steps)))

    def written() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in out.rglob("*")}

    exported_then = []

    def judge(run: Run, heed: Heed) -> dict[str, Any]:
        exported_then.append(out.exists())
        return judge_further_sets(run, heed)

    monkeypatch.setattr("adaptive_ft.trainer.judge_further_sets", judge)
    summary, before = Trainer(build(given("exports", 1), ranks)).fit(), written()
    assert Trainer(build(given("exports", 1), ranks)).fit() == summary
    assert (exported_then, written()) == ([False, True], before)
    mark = (out / MARK).read_text()
    for name, steps, told in (
        ("exports", 2, mark),
        ("another", 1, mark),
        ("exports", 1, mark.replace('": "', '": "0')),
    ):
        (out / MARK).write_text(told)
        with pytest.raises(UserError, match=r"--export_to '.*' is in use: choose a new folder"):
            build(given(name, steps), ranks)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exports"]


def test_a_destination_in_use_is_refused(finished_run: RunFolder, tmp_path: Path) -> None:
    """Nothing of what lies there is touched."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(UserError, match="is in use: choose a new folder"):
        export_adaptive(restore(finished_run.path), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
