"""What a run leaves is enough to go on, to answer again, and to be a base; what does not fit is refused untouched."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LxmertForQuestionAnswering

from adaptive_ft import AdaptiveConfig, AdaptiveModel
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import load_checkpoint, restore
from adaptive_ft.tally import Tally
from adaptive_ft.trainer import Trainer

Tiny = Callable[..., list[str]]
NEWEST = "step_000003"
NO_MODEL = r"is not a saved adaptive model: adaptive_config\.json is missing"


@pytest.fixture
def copied(finished_run: RunFolder, tmp_path: Path) -> RunFolder:
    """The finished run in a folder a test may damage."""
    shutil.copytree(finished_run.path, tmp_path / "runs/finished")
    return RunFolder(tmp_path / "runs/finished")


def options(tiny: Tiny, run: RunFolder, *more: str) -> list[str]:
    return tiny("finished", "--save_steps", "2", "--output_dir", str(run.path.parent), "--resume", "auto", *more)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the number of its latest start."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: held for name, held in files.items() if name != "generation"}


def test_a_checkpoint_holds_what_was_learned_and_no_more(finished_run: RunFolder, tiny_base: Path) -> None:
    """No frozen weight in any file of weights; the answer table and the tokenizer lie beside them."""
    place = finished_run.checkpoints.folder / NEWEST
    frozen = {
        name for name in load_file(tiny_base / "model.safetensors") if ".encoder." in name and "visn_fc" not in name
    }
    assert frozen
    saved = set(load_file(place / "adaptive/adaptive_model.safetensors"))
    engine = torch.load(place / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    assert {name for name in saved if name.startswith(("base.", "policy."))} < set(engine)
    assert len(saved) == len(engine)
    assert not set(engine) & {f"base.{name}" for name in frozen}
    assert {"language.0.attention.query.delta_weight", "cross.0.region_ffn.out.norm.delta_bias"} < saved
    facts = json.loads((place / "adaptive/task.json").read_text())
    assert len(facts["answer_table"]) == facts_of_base(tiny_base).config.num_qa_labels


def facts_of_base(tiny_base: Path) -> LxmertForQuestionAnswering:
    return LxmertForQuestionAnswering.from_pretrained(tiny_base)


def test_restore_gives_the_trained_model(finished_run: RunFolder) -> None:
    """Weights, config, tokenizer, answers and step of the newest checkpoint, in evaluation mode."""
    restored = restore(finished_run.path)
    assert (restored.step, restored.model.training) == (3, False)
    saved = load_file(finished_run.checkpoints.folder / NEWEST / "adaptive/adaptive_model.safetensors")
    for name, value in restored.model.adaptive_state_dict().items():
        assert torch.equal(value, saved[restored.model.anatomy.id_of(name.removeprefix("base.")) or name]), name
    assert restored.config.adapt.strategy == "spottune_block"
    assert restored.subject.facts.vocab_size == restored.model.base.config.vocab_size
    assert restore(finished_run.path, "best").step == 3


def test_the_folder_of_a_run_is_no_saved_model_but_tells_where_one_is(copied: RunFolder) -> None:
    """The best checkpoint's, or the newest one's where none was scored; the model there is the run's."""
    copied.checkpoints.point("best", "step_000002")
    told = f"{NO_MODEL}; give '{copied.checkpoints.folder}/step_000002/adaptive'"
    for part in ("", "checkpoints"):
        with pytest.raises(UserError, match=f"^'{copied.path / part}' {told}"):
            AdaptiveModel.from_pretrained(None, copied.path / part)
    with pytest.raises(UserError, match=f"{NO_MODEL}; give '.*/{NEWEST}/adaptive'"):
        AdaptiveConfig.from_pretrained(copied.checkpoints.folder / NEWEST)
    (copied.checkpoints.folder / "best").unlink()
    with pytest.raises(UserError, match=f"{NO_MODEL}; give '.*/{NEWEST}/adaptive'"):
        AdaptiveModel.from_pretrained(None, copied.path)
    model = AdaptiveModel.from_pretrained(None, copied.checkpoints.folder / NEWEST / "adaptive")
    expected = restore(copied.path).model.adaptive_state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.adaptive_state_dict().items())
    shutil.rmtree(copied.checkpoints.folder)
    with pytest.raises(UserError, match=f"{NO_MODEL}; .* a run of train.py that has no checkpoint"):
        AdaptiveModel.from_pretrained(None, copied.path)


def test_restore_says_what_is_missing(copied: RunFolder, tmp_path: Path) -> None:
    """No run folder, a damaged checkpoint, no checkpoint at all."""
    with pytest.raises(UserError, match=r"is not a run folder: it has no config\.yaml"):
        restore(tmp_path)
    with pytest.raises(UserError) as told:
        restore(copied.checkpoints.folder / NEWEST)
    assert str(told.value).endswith(f"it has no config.yaml; give the run folder it lies in, '{copied.path}'.")
    weights = copied.checkpoints.folder / NEWEST / "adaptive/adaptive_model.safetensors"
    os.truncate(weights, 100)
    with pytest.raises(UserError, match=rf"{NEWEST} .* cannot be used: adaptive/adaptive_model\.safetensors has 100"):
        restore(copied.path)
    (copied.checkpoints.folder / "latest").unlink()
    with pytest.raises(UserError, match="has no latest checkpoint"):
        restore(copied.path)


def test_a_finished_run_stays_as_it_is(copied: RunFolder, tiny: Tiny, ranks: Ranks) -> None:
    """Nothing is left to train: the same summary comes back, and no file is written again, whatever else is asked."""

    def written() -> dict[Path, int]:
        return {copied.path / name: (copied.path / name).stat().st_mtime_ns for name in content(copied.path)}

    before = written()
    summary = Trainer(build(load_run_config(options(tiny, copied, "--optim.weight_decay", "0.5")), ranks)).fit()
    assert summary == json.loads((copied.path / "summary.json").read_text())
    assert written() == before


def test_a_run_killed_before_its_summary_writes_it(copied: RunFolder, tiny: Tiny, ranks: Ranks) -> None:
    """The last checkpoint stands, the summary does not: it is written, and nothing is trained or evaluated twice."""
    path = copied.path / "summary.json"
    told = json.loads(path.read_text())
    metrics = (copied.path / "metrics.jsonl").read_bytes()
    path.unlink()
    summary = Trainer(build(load_run_config(options(tiny, copied)), ranks)).fit()
    assert {**summary, "seconds": 0} == {**told, "seconds": 0}
    assert (copied.path / "metrics.jsonl").read_bytes() == metrics


def test_a_run_cut_short_at_its_checkpoint_is_evaluated(copied: RunFolder, tiny: Tiny, ranks: Ranks) -> None:
    """Killed after the checkpoint of update 2 and resumed to end there: the end has its score and its checkpoint."""
    shutil.rmtree(copied.checkpoints.folder / NEWEST)
    (copied.path / "summary.json").unlink()
    summary = Trainer(build(load_run_config(options(tiny, copied, "--max_steps", "2")), ranks)).fit()
    assert (summary["steps"], summary["best_step"]) == (2, 2)
    assert copied.checkpoints.pointed("best") == "step_000002"


def test_a_resume_leaves_nothing_newer_and_the_right_best(copied: RunFolder, tiny: Tiny, ranks: Ranks) -> None:
    """A damaged newer checkpoint goes, the pointer to a best that is stale or gone is set again."""
    checkpoints = copied.checkpoints
    shutil.copytree(checkpoints.folder / NEWEST, checkpoints.folder / "step_000009")
    (checkpoints.folder / "step_000009/adaptive/task.json").unlink()
    checkpoints.point("latest", "step_000009")
    for stale in ("step_000002", None):
        if stale is None:
            (checkpoints.folder / "best").unlink()
        else:
            checkpoints.point("best", stale)
        load_checkpoint(build(load_run_config(options(tiny, copied)), ranks))
        assert [checkpoints.pointed(pointer) for pointer in ("latest", "best")] == [NEWEST, NEWEST]
    assert not (checkpoints.folder / "step_000009").exists()


@pytest.fixture
def lost_best(tiny: Tiny, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, list[str]]:
    """A run of three epochs, 1 the best until 3 was, whose update 3 is torn: a resume falls back to 2; its options."""
    scores, end_epoch = {1: 0.5, 2: 0.1, 3: 0.9}, Tally.end_epoch

    def scored(tally: Tally, record: dict[str, Any], update: int) -> bool:
        return end_epoch(tally, {**record, "val_score": scores[update]}, update)

    monkeypatch.setattr(Tally, "end_epoch", scored)
    words = ("--strategy", "standard", "--per_device_train_batch_size", "130", "--output_dir", str(tmp_path))
    given = tiny("lost_best", *words, "--resume", "auto")
    Trainer(build(load_run_config(given), ranks)).fit()
    folder = RunFolder(tmp_path / "lost_best")
    os.truncate(folder.checkpoints.folder / NEWEST / "adaptive/adaptive_model.safetensors", 100)
    return folder, given


def test_a_fallback_has_the_best_of_its_moment(lost_best: tuple[RunFolder, list[str]], ranks: Ranks) -> None:
    """It was kept for the checkpoint that names it, though the torn one had been better; the run ends as before."""
    folder, given = lost_best
    state = load_checkpoint(build(load_run_config(given), ranks))
    assert state is not None
    assert state["best"] == {"val_score": 0.5, "step": 1}
    assert restore(folder.path, "best").step == 1
    Trainer(build(load_run_config(given), ranks)).fit()
    assert restore(folder.path, "best").step == 3


@pytest.mark.parametrize("is_there", [True, False])
def test_where_the_best_is_lost_the_best_of_the_rest_takes_its_place(
    is_there: bool, lost_best: tuple[RunFolder, list[str]], ranks: Ranks
) -> None:
    """Damaged or removed: the pointer and the tally name the one that the run goes on from."""
    folder, given = lost_best
    place = folder.checkpoints.folder / "step_000001"
    if is_there:
        (place / "adaptive/task.json").unlink()
    else:
        shutil.rmtree(place)
    state = load_checkpoint(build(load_run_config(given), ranks))
    assert state is not None
    assert state["best"] == {"val_score": 0.1, "step": 2}
    assert restore(folder.path, "best").step == 2


def test_where_nothing_scored_is_left_the_best_is_what_the_run_goes_on_from(
    copied: RunFolder, tiny: Tiny, ranks: Ranks
) -> None:
    """Its weights were never scored: whatever epoch ends next is better."""
    os.truncate(copied.checkpoints.folder / NEWEST / "adaptive/adaptive_model.safetensors", 100)
    state = load_checkpoint(build(load_run_config(options(tiny, copied)), ranks))
    assert state is not None
    assert state["best"] == {}
    assert restore(copied.path, "best").step == 2


def test_more_updates_than_before_go_on(copied: RunFolder, tiny: Tiny, ranks: Ranks) -> None:
    """A finished run resumed with a larger max_steps trains the rest and records it."""
    run = build(load_run_config(options(tiny, copied, "--max_steps", "5")), ranks)
    summary = Trainer(run).fit()
    assert (summary["steps"], run.folder.checkpoints.pointed("latest")) == (5, "step_000005")
    assert load_run_config(["--config", str(copied.config_file)]).max_steps == 5


def test_another_base_is_refused(copied: RunFolder, tiny: Tiny, tiny_base: Path, ranks: Ranks, tmp_path: Path) -> None:
    """The frozen half is proved by its hash, in training and in evaluation."""
    other = tmp_path / "other"
    model = facts_of_base(tiny_base)
    with torch.no_grad():
        model.lxmert.encoder.layer[0].intermediate.dense.weight[0, 0] += 1
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(other)
    run = build(load_run_config(options(tiny, copied, "--model.name", str(other))), ranks)
    with pytest.raises(UserError, match=r"written from another base model than '.*other' \(--model.name\)"):
        load_checkpoint(run)
    text = copied.config_file.read_text()
    copied.config_file.write_text(text.replace(str(tiny_base), str(other)))
    with pytest.raises(UserError, match="the base model differs"):
        restore(copied.path)


def test_random_weights_survive_a_resume_with_another_seed(tiny: Tiny, ranks: Ranks, tmp_path: Path) -> None:
    """A run from random weights keeps its base; a resume that would draw other ones is refused and takes none away."""
    words = ["--model.name", "None", "--model.hidden_size", "8", "--model.num_attention_heads", "2"]
    words += ["--model.intermediate_size", "8", "--model.language_layers", "1", "--model.region_layers", "1"]
    words += ["--model.cross_layers", "1", "--max_steps", "1", "--output_dir", str(tmp_path)]
    Trainer(build(load_run_config(tiny("random", *words)), ranks)).fit()
    before = content(tmp_path / "random")
    assert restore(tmp_path / "random").step == 1
    with pytest.raises(UserError, match="with --seed 1, this run has 2"):
        Trainer(build(load_run_config(tiny("random", *words, "--seed", "2", "--resume", "auto")), ranks)).fit()
    assert content(tmp_path / "random") == before
