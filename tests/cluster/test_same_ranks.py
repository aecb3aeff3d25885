"""A run stopped and resumed on the same ranks ends as an undisturbed one, bit for bit: every ZeRO stage and precision.

The kill of real processes is tests/test_resume.py's; here all stages go through the same three launchers.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]
GATED = ("--adapt.strategy", "spottune", "--optim.decay", "matrices", "--gradient_accumulation_steps", "2")
LONG = ("--max_steps", "9", "--save_steps", "5", "--no-eval-on-start", "--per_device_train_batch_size", "2")
CASES = {
    f"bits{stage}_{precision}": (stage, ("--precision", precision))
    for precision in ("fp32", "bf16")
    for stage in (0, 1, 2, 3)
}


@pytest.fixture(scope="module")
def runs(launch: Launch, tiny: Tiny, repository: Path, workplace: Path) -> Path:
    """The folder of the runs: NAME undisturbed, NAME_cut stopped after update 5 and resumed by other processes."""
    (workplace / "bits").mkdir()
    program = repository / "tests/cluster/several_runs.py"
    whole, first, second = (
        [
            {
                "words": tiny(f"{name}{suffix}", *LONG, *GATED, *words, "--resume", "auto", stage=stage),
                "stop_at": stop_at,
            }
            for name, (stage, words) in CASES.items()
        ]
        for suffix, stop_at in (("", None), ("_cut", 5), ("_cut", None))
    )
    for launched in (whole + first, second):
        launcher = ("torchrun", "--standalone", "--nproc-per-node", "2")
        done = launch(*launcher, program, workplace / "bits", json.dumps(launched), patience=1500)
        assert done.returncode == 0, done.stdout + done.stderr
    return workplace / "runs"


def metrics(run: Path) -> list[dict[str, Any]]:
    """All recorded lines without the speed and the waiting for data, which no two runs share."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("time/", "train/data_stall_share")
    return [{name: value for name, value in line.items() if not name.startswith(measured)} for line in lines]


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_has_the_same_bits(name: str, runs: Path) -> None:
    """Float32 weights, losses, norms and history."""
    weights = "checkpoints/step_000009/adaptive/adaptive_model.safetensors"
    assert (runs / f"{name}_cut" / weights).read_bytes() == (runs / name / weights).read_bytes()
    assert metrics(runs / f"{name}_cut") == metrics(runs / name)
    assert len(metrics(runs / name)) >= 9
