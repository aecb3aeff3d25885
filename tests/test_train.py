"""The whole program in real processes: every way to launch it, and the same run however it is cut into ranks."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.engine.ranks import free_port

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]

# {port}: a launcher's usual port may be taken by another run on this machine.
LAUNCHERS = {
    "deepspeed": ("deepspeed --master_port {port}", 1),
    "deepspeed_two": ("deepspeed --master_port {port} --num_gpus 2", 2),
    "torchrun": ("torchrun --standalone --nproc-per-node 2", 2),
    "accelerate": ("accelerate launch", 1),
    "python": ("python", 1),
}
# Many runs under one start of the ranks: starting python and DeepSpeed is nine tenths of such a run.
MANY_RUNS = """
import json, sys, time
from adaptive_ft import trainer
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import run_ranks

export = trainer.export_merged

def export_on_a_slow_disk(*places):
    time.sleep(2)
    export(*places)

trainer.export_merged = export_on_a_slow_disk

def main(ranks):
    for options in json.load(open(sys.argv[1])):
        trainer.Trainer(build(load_run_config(options), ranks)).fit()

run_ranks(main)
"""


def read_summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def curve(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("form", LAUNCHERS)
def test_every_launcher_finishes_the_run(
    form: str, launch: Launch, tiny: Tiny, workplace: Path, repository: Path
) -> None:
    """Exit code 0, the ranks that were asked for, and everything a run leaves: summary, metrics, pictures, weights."""
    launcher, world_size = LAUNCHERS[form]
    done = launch(*launcher.format(port=free_port()).split(), repository / "train.py", *tiny(form))
    assert done.returncode == 0, done.stderr
    run = workplace / "runs" / form
    summary = read_summary(run)
    assert (summary["world_size"], summary["steps"]) == (world_size, 3)
    assert len(curve(run, "train/loss")) == 3
    assert (run / "plots/usage_val_epoch01.png").is_file()
    assert (run / "checkpoints/latest").read_text() == "step_000003\n"
    assert (run / "checkpoints/step_000003/adaptive/adaptive_model.safetensors").is_file()
    assert done.stdout.count("pictures ") == 1, "one rank speaks"


@pytest.fixture(scope="module")
def many(workplace: Path, launch: Launch, tiny: Tiny) -> Path:
    """Runs of one global batch of 8, on one rank and on two, under every ZeRO stage."""
    standard = ("--adapt.strategy", "standard", "--max_steps", "4")
    eight, four = ("--per_device_train_batch_size", "8"), ("--per_device_train_batch_size", "4")
    alone = [
        tiny("alone", *standard, *eight, stage=0),
        tiny("accumulated", *standard, *four, "--gradient_accumulation_steps", "2", stage=0),
    ]
    spottune = ("--adapt.strategy", "spottune", "--max_steps", "4")
    pair = [tiny(f"standard_{stage}", *standard, *four, stage=stage) for stage in range(4)]
    pair += [tiny(f"spottune_{stage}", *spottune, *four, stage=stage) for stage in range(4)]
    low_rank = ("--adapt.delta_rank", "2", "--policy", "learned")
    pair += [tiny(f"low_rank_{stage}", *spottune, *low_rank, *four, stage=stage) for stage in range(4)]
    exported = str(workplace / "exported")
    pair += [tiny("exporting", *standard, "--export_to", exported), tiny("on_it", "--model.name", exported)]
    (workplace / "many_runs.py").write_text(MANY_RUNS)
    for name, runs, launcher in (("one", alone, "python"), ("two", pair, LAUNCHERS["torchrun"][0])):
        (workplace / f"{name}.json").write_text(json.dumps(runs))
        done = launch(*launcher.split(), "many_runs.py", f"{name}.json")
        assert done.returncode == 0, done.stdout + done.stderr
    return workplace / "runs"


@pytest.mark.parametrize("name", ["accumulated", "standard_0", "standard_1", "standard_2", "standard_3"])
def test_one_global_batch_gives_one_curve(name: str, many: Path) -> None:
    """One rank with 8 examples, two micro-batches of 4, two ranks with 4 under ZeRO 0 to 3: the same losses, scores,
    gradient norms and validation score, up to the order of float32 sums.
    """
    for metric in ("train/loss", "train/score", "train/gradient_norm", "val/score", "epoch/val_score"):
        expected = curve(many / "alone", metric)
        assert expected
        assert curve(many / name, metric) == pytest.approx(expected, rel=1e-4), metric


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("run", ["spottune", "low_rank"])
def test_zero_stages_agree_with_a_policy(run: str, stage: int, many: Path) -> None:
    """At the same ranks the Gumbel noise is the same, so every ZeRO stage takes the same decisions and steps."""
    for metric in ("train/loss", "train/gradient_norm", "epoch/tuned_share_train", "epoch/tuned_share_val"):
        expected = curve(many / f"{run}_0", metric)
        assert expected
        assert curve(many / f"{run}_{stage}", metric) == pytest.approx(expected, rel=1e-4), metric


def test_learning_changes_the_loss(many: Path) -> None:
    """The curves compared above are curves, not four times the same number."""
    losses = curve(many / "alone", "train/loss")
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_all_ranks_wait_for_the_export_that_the_next_run_starts_from(many: Path) -> None:
    """As the embedded run does: the base is trained and exported, then adapted, in the same two processes."""
    assert read_summary(many / "on_it")["world_size"] == 2
    assert (many.parent / "exported/model.safetensors").is_file()
