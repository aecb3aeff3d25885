"""A checkpoint is continued by the run that wrote it, or refused: option, both values, way out, nothing touched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.build import Run, build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.same_run import shared_facts
from adaptive_ft.saving import load_checkpoint

Tiny = Callable[..., list[str]]
Resumed = Callable[..., Run]
WAY_OUT = "resume with what it was written with, or start a new run under another --name."


@pytest.fixture
def copied(finished_run: RunFolder, tmp_path: Path) -> RunFolder:
    """The finished run in a folder of its own."""
    shutil.copytree(finished_run.path, tmp_path / "runs/finished")
    return RunFolder(tmp_path / "runs/finished")


@pytest.fixture
def resumed(copied: RunFolder, tiny: Tiny, ranks: Ranks) -> Resumed:
    """The run built again, to go on, with more options."""

    def run(*more: str) -> Run:
        words = tiny("finished", "--output_dir", str(copied.path.parent), "--resume", "auto", *more)
        return build(load_run_config(words), ranks)

    return run


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the number and the sign of life of its latest start."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: held for name, held in files.items() if name not in ("generation", "alive")}


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "precision": (("--precision", "bf16"), "with --precision fp32, this run has bf16"),
    "seed": (("--seed", "2"), "with --seed 1, this run has 2"),
    "data": (("--data.train", "world/source/train"), "with training shards (--data.train) with the fingerprint"),
    "validation data": (("--data.val", "world/source/val"), "with validation shards (--data.val) with the fingerprint"),
    "blind": (("--data.blind",), "with --data.blind False, this run has True"),
    "decay": (("--optim.decay", "matrices"), "with --optim.decay all, this run has matrices"),
    "strategy": (("--strategy", "spottune"), "with --adapt.strategy spottune_block, this run has spottune"),
    "rank": (("--adapt.delta_rank", "2"), "with --adapt.delta_rank None, this run has 2"),
    "policy": (("--adapt.policy.hidden_size", "9"), "with --adapt.policy.hidden_size 8, this run has 9"),
    "form of a loss": (("--losses.budget_form", "squared"), "with --losses.budget_form hinge, this run has squared"),
    "losses": (("--losses.budget_scale", "0.5"), "with --losses.budget_scale 0.0, this run has 0.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_no_longer_fits_is_refused_untouched(
    case: str, resumed: Resumed, copied: RunFolder, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Position, shapes and method would not be those of the checkpoint."""
    monkeypatch.chdir(workplace)
    words, sentence = REFUSED[case]
    before = content(copied.path)
    with pytest.raises(UserError) as told:
        load_checkpoint(resumed(*words))
    assert sentence in str(told.value)
    assert str(told.value).endswith(WAY_OUT)
    assert content(copied.path) == before


@pytest.mark.parametrize(
    ("written", "words", "way_out"),
    [
        (4, ("--per_device_train_batch_size", "8"), "--per_device_train_batch_size 4 (1 ranks x 4 x 1)"),
        (
            12,
            ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "3"),
            "--per_device_train_batch_size 4 (1 ranks x 4 x 3) or --gradient_accumulation_steps 6 (1 ranks x 2 x 6)",
        ),
        (
            9,
            ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
            "--per_device_train_batch_size and --gradient_accumulation_steps whose product is 9",
        ),
    ],
)
def test_another_batch_is_refused_with_what_keeps_it(
    written: int, words: tuple[str, ...], way_out: str, resumed: Resumed, copied: RunFolder
) -> None:
    """The position in the data counts examples, and the schedule updates: both need the batch of all ranks to stay."""
    path = copied.checkpoints.folder / "step_000003/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "global_batch": written}))
    before = content(copied.path)
    with pytest.raises(UserError) as told:
        load_checkpoint(resumed(*words))
    assert f"x --gradient_accumulation_steps x ranks) of {written}, this run has" in str(told.value)
    assert str(told.value).endswith(f"resume with {way_out}, or start a new run under another --name.")
    assert content(copied.path) == before


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        ("zero_stage", "with a ZeRO stage (--ds_config) of 2, this run has 0"),
        ("answer_table_sha256", "with an answer table (--data.train) with SHA-256 2, this run has"),
        ("adapt.gate_gradient", "with --adapt.gate_gradient 2, this run has first_order"),
    ],
)
def test_what_is_no_option_of_this_run_is_told_in_words(
    fact: str, sentence: str, resumed: Resumed, copied: RunFolder, repository: Path
) -> None:
    """ZeRO stage and answer table come from a JSON and the shards, and its strategy has one gate gradient."""
    path = copied.checkpoints.folder / "step_000003/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), fact: 2}))
    stage = ("--ds_config", str(repository / "ds_configs/zero0.json")) if fact == "zero_stage" else ()
    with pytest.raises(UserError) as told:
        load_checkpoint(resumed(*stage))
    assert sentence in str(told.value)


def test_a_checkpoint_from_before_the_fact_was_kept_is_let_through(resumed: Resumed, copied: RunFolder) -> None:
    """The first checkpoints do not say which validation data judged them, nor how gates got their gradients."""
    path = copied.checkpoints.folder / "step_000003/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["val_data"], manifest["adapt.gate_gradient"]
    path.write_text(json.dumps(manifest))
    assert load_checkpoint(resumed()) is not None


def test_a_run_that_would_have_ended_before_is_refused(resumed: Resumed) -> None:
    """Steps may grow, not shrink below what was trained."""
    with pytest.raises(UserError, match="after update 3, this run ends after 2: resume with a larger --max_steps"):
        load_checkpoint(resumed("--max_steps", "2"))


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "SpotTune_Block"),
        ("--max_steps", "9"),
        ("--optim.learning_rate", "1e-4"),
        ("--adapt.temperature", "2", "--adapt.final_temperature", "1"),
        ("--losses.budget", "0.25"),
        ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
    ],
)
def test_what_may_change_on_the_way(words: tuple[str, ...], resumed: Resumed) -> None:
    """Another spelling, more steps, other rates, targets, temperature and cut of the batch are the same run."""
    run = resumed(*words)
    assert load_checkpoint(run) is not None
    assert run.engine.updates == 3


def test_options_that_changed_are_told_in_one_line(
    resumed: Resumed, copied: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Name, old and new; nothing about a run resumed as it was, nor about the options that say where and how to go on.

    A config that a person has spoilt since is nothing to compare with.
    """
    told = "changed since the last start: "
    same = ("--save_steps", "2")
    load_checkpoint(resumed(*same))
    assert told not in capsys.readouterr().out
    load_checkpoint(resumed(*same, "--optim.learning_rate", "5e-5", "--max_steps", "9"))
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(told)]
    assert lines == [f"{told}max_steps: 3 -> 9, optim.learning_rate: 0.001 -> 5e-05"]
    assert "the learning rates follow the schedule of 9 updates from here on" in printed
    for content in ("[1", "3", "optim: 3\nmax_steps: 3\nseed: 1\n"):
        copied.config_file.write_text(content)
        load_checkpoint(resumed("--optim.learning_rate", "5e-5"))
        assert told not in capsys.readouterr().out


def test_the_facts_are_json_as_they_stand(resumed: Resumed) -> None:
    """What is compared with a manifest must come back from it equal; without decisions there is no policy to share."""
    facts: dict[str, Any] = shared_facts(resumed())
    assert json.loads(json.dumps(facts)) == facts
    constant = shared_facts(resumed("--strategy", "standard"))
    assert {name for name in facts if name not in constant} == {name for name in facts if "adapt.policy" in name}
