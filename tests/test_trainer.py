"""The loop: when an epoch ends, what a resumed run changes, and how a run that diverges ends."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adaptive_ft import build as building
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.living import ALIVE
from adaptive_ft.engine.ranks import Ranks, free_port
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.trainer import Trainer

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Fit = Callable[..., tuple[dict[str, Any], RunFolder]]


@pytest.fixture
def fit(tiny: Callable[..., list[str]], ranks: Ranks, tmp_path: Path) -> Fit:
    """Train a run of this name to its end; its summary and folder."""

    def trained(name: str, *more: str) -> tuple[dict[str, Any], RunFolder]:
        run = build(load_run_config(tiny(name, "--output_dir", str(tmp_path), *more)), ranks)
        return Trainer(run).fit(), run.folder

    return trained


def lines(folder: RunFolder, name: str) -> dict[int, float]:
    """The recorded values of one name by step."""
    recorded = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in recorded if name in line}


@pytest.mark.parametrize(
    ("batch", "steps", "epochs"),
    [
        # 122 questions: one batch holds them all once and more, two, or a third of them.
        (130, 3, {1: 1, 2: 2, 3: 3}),
        (250, 2, {1: 2, 2: 4}),
        (61, 5, {2: 1, 4: 2, 5: 3}),
        (41, 4, {3: 1, 4: 2}),
    ],
)
def test_every_completed_epoch_and_the_last_update_are_evaluated(
    batch: int, steps: int, epochs: dict[int, int], fit: Fit
) -> None:
    """Epoch u * batch // questions; the newest checkpoint is the end's."""
    words = ("--per_device_train_batch_size", str(batch), "--max_steps", str(steps), "--strategy", "standard")
    summary, folder = fit("epochs", *words)
    assert lines(folder, "epoch/epoch") == epochs
    assert summary["epochs"] == epochs[steps]
    assert folder.checkpoints.pointed("latest") == folder.checkpoints.tag(steps)


def test_a_resumed_run_takes_the_rates_of_its_config(fit: Fit) -> None:
    """Three updates at 1e-3, then to the fifth at 1e-4: the checkpoint does not bring its rates along."""
    fit("rates")
    _, folder = fit("rates", "--resume", "auto", "--max_steps", "5", "--optim.learning_rate", "1e-4")
    rates = lines(folder, "learning_rate/delta")
    assert all(rates[step] > 1e-4 for step in (1, 2, 3))
    assert all(0 < rates[step] <= 1e-4 for step in (4, 5))


def test_the_temperature_falls_with_the_updates_alone(fit: Fit) -> None:
    """4 (1/4)^(u/4) in update u = 0..3, also where the run was resumed; without decisions there is none."""
    words = ("--adapt.temperature", "4", "--adapt.final_temperature", "1", "--save_steps", "2")
    _, folder = fit("annealed", *words, "--max_steps", "4")
    expected = {1: 4.0, 2: 4 * 0.25**0.25, 3: 2.0, 4: 4 * 0.25**0.75}
    assert lines(folder, "train/temperature") == pytest.approx(expected)
    _, folder = fit("annealed", *words, "--max_steps", "8", "--resume", "auto")
    assert lines(folder, "train/temperature") == pytest.approx(
        expected | {step + 1: 4 * 0.25 ** (step / 8) for step in (4, 5, 6, 7)}
    )
    _, folder = fit("undecided", "--strategy", "standard")
    assert not lines(folder, "train/temperature")


@pytest.mark.parametrize(("policy", "trains"), [("learned", True), ("fixed", False)])
def test_policies_that_do_not_look_go_through_a_whole_run(policy: str, trains: bool, fit: Fit) -> None:
    """Training with a loss on the decisions, evaluation and resume; what never trains has no optimizer group."""
    words = ("--policy", policy, "--losses.budget_scale", "1", "--optim.policy_learning_rate", "0.1")
    fit(policy, *words)
    summary, folder = fit(policy, *words, "--resume", "auto", "--max_steps", "4")
    assert summary["policy"] == policy
    assert bool(lines(folder, "learning_rate/policy")) == trains
    assert all(math.isfinite(value) for value in lines(folder, "train/loss_budget").values())
    weights = load_file(next(folder.path.glob("checkpoints/step_000004/adaptive/*.safetensors")))
    moved = {name: value for name, value in weights.items() if name.startswith("policy.")}
    assert bool(moved) == trains
    assert all(value.any() for value in moved.values()), "from logits of zero"


def test_seconds_count_all_processes(tiny: Callable[..., list[str]], ranks: Ranks, fit: Fit, tmp_path: Path) -> None:
    """A first process that took an hour, and a second one that only adds to it."""
    words = ("--strategy", "standard")
    first = Trainer(build(load_run_config(tiny("seconds", "--output_dir", str(tmp_path), *words)), ranks))
    first.tally._began -= 3600
    assert first.fit()["seconds"] > 3600
    second, _ = fit("seconds", *words, "--resume", "auto", "--max_steps", "4")
    assert second["seconds"] > 3600


@pytest.mark.parametrize("strategy", ["standard", "spottune_block"])
def test_divergence_is_one_sentence_and_leaves_no_checkpoint(strategy: str, fit: Fit, tmp_path: Path) -> None:
    """A learning rate beyond all measure, noticed between two intervals: the update is named, nothing is saved."""
    words = (
        "--optim.learning_rate",
        "1e30",
        "--tracking.logging_steps",
        "100",
        "--max_steps",
        "9",
        "--save_steps",
        "3",
    )
    with pytest.raises(
        UserError, match=r"diverged at update [123]: .* lower --optim.learning_rate \(now 1e\+30\)"
    ) as told:
        fit("diverged", "--strategy", strategy, *words)
    found = json.loads((tmp_path / "diverged/diverged.json").read_text())
    assert f"at update {found['update']}: " in str(told.value)
    ((batch,),) = (rank["micro_batches"] for rank in found["ranks"])
    assert len(batch["question_ids"]) == 4
    assert not list((tmp_path / "diverged").glob("checkpoints/*"))
    assert all(math.isfinite(value) for value in lines(RunFolder(tmp_path / "diverged"), "val/score").values())


@pytest.mark.launch
def test_two_ranks_that_diverge_tell_it_once(
    launch: Launch, tiny: Callable[..., list[str]], repository: Path, workplace: Path
) -> None:
    """Both come to the same end, one of them says why; exit code 2 and no traceback; the questions of both are kept."""
    program = ("deepspeed", "--num_gpus", "2", "--master_port", free_port(), repository / "train.py")
    done = launch(*map(str, program), *tiny("diverged", "--optim.learning_rate", "1e30", "--max_steps", "9"))
    assert done.returncode == 2, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "frame #" not in done.stderr, "no rank looks for one that has gone"
    found = json.loads((workplace / "runs/diverged/diverged.json").read_text())
    assert [rank["rank"] for rank in found["ranks"]] == [0, 1]
    fed = [number for rank in found["ranks"] for batch in rank["micro_batches"] for number in batch["question_ids"]]
    assert len(set(fed)) == 8, "4 questions of each rank, none twice"


def test_the_trackers_of_a_run_that_fails_are_closed(
    tiny: Callable[..., list[str]], ranks: Ranks, tmp_path: Path
) -> None:
    """Whatever ends the run, the numbers recorded so far are flushed."""
    run = build(load_run_config(tiny("failing", "--output_dir", str(tmp_path))), ranks)
    trainer = Trainer(run)
    trainer.train_step = None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        trainer.fit()
    assert trainer.recorder is not None
    with pytest.raises(ValueError, match="closed file"):
        trainer.recorder.trackers[0].log(1, {"loss": 1.0})


def test_a_start_that_fails_before_it_trains_leaves_no_sign_of_life(
    tiny: Callable[..., list[str]], ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may live on, as a notebook does: nobody is to take it for a run."""
    words = tiny("signs", "--output_dir", str(tmp_path), "--max_steps", "1")
    folder = tmp_path / "signs"
    Trainer(build(load_run_config(words), ranks)).fit()
    resumed = load_run_config([*words, "--resume", "auto"])

    def fails(*_: Any, **__: Any) -> None:
        assert (folder / ALIVE).is_file(), "it is seen while it builds its engine"
        raise UserError("no engine today")

    monkeypatch.setattr(building, "Engine", fails)
    with pytest.raises(UserError, match="no engine today"):
        build(resumed, ranks)
    assert (folder / "config.yaml").is_file()
    assert not (folder / ALIVE).exists()
