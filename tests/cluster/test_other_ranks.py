"""A run goes on with another number of ranks by the same command: 2, then 1, then 4; no question is lost or repeated.

Mirrors engine/universal.py and same_run.py; each launcher runs all the cases one after the other.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]

# Two epochs of about 15 updates of 8 questions, and one update more.
LONG = ("--max_steps", "31", "--save_steps", "6", "--no-eval-on-start")
# Ranks, examples of each in a micro-batch, micro-batches, and after which update it is over.
LEGS = ((2, 4, 1, 6), (1, 2, 4, 18), (4, 1, 2, None))
CONSTANT = ("--adapt.strategy", "standard")
# A policy of fewer numbers than the flat groups of four ranks are padded to.
SMALL_GROUP = ("--adapt.strategy", "spottune_block", "--adapt.policy.kind", "learned")
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "zero0": (0, CONSTANT),
    "zero1": (1, CONSTANT),
    "zero2": (2, CONSTANT),
    "zero3": (3, CONSTANT),
    "zero1_bf16": (1, (*CONSTANT, "--precision", "bf16")),
    "gated": (3, ("--adapt.strategy", "spottune", "--optim.decay", "matrices")),
    "small_group": (2, SMALL_GROUP),
}


def options(tiny: Tiny, name: str, leg: int) -> list[str]:
    """The options of one leg: the number of ranks comes from the launcher, the rest cuts the same batch for it."""
    _, micro, accumulation, _ = LEGS[leg]
    stage, words = CASES[name]
    cut = ("--per_device_train_batch_size", str(micro), "--gradient_accumulation_steps", str(accumulation))
    return tiny(name, *LONG, *words, *cut, "--resume", "auto", stage=stage)


@pytest.fixture(scope="module")
def read(launch: Launch, tiny: Tiny, repository: Path, workplace: Path) -> Path:
    """The folder with what was read, after all cases have gone through all legs, and through none ("alone")."""
    folder = workplace / "read"
    folder.mkdir()
    program = repository / "tests/cluster/several_runs.py"
    alone = [
        {"words": [*options(tiny, name, 1), "--name", f"{name}_alone"], "stop_at": None}
        for name in ("zero0", "zero1_bf16")
    ]
    for leg, (ranks, _, _, stop_at) in enumerate(LEGS):
        runs = [{"words": options(tiny, name, leg), "stop_at": stop_at} for name in CASES]
        if ranks == 1:
            runs += alone
        done = launch(
            *("torchrun", "--standalone", "--nproc-per-node", str(ranks)),
            program,
            folder,
            json.dumps(runs),
            patience=1500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def drawn(folder: Path, name: str, ranks: int) -> list[int]:
    """The question ids in the order of the stream: of each micro-batch, rank by rank."""
    of_rank = [json.loads((folder / f"{name}.{ranks}.{rank}.json").read_text()) for rank in range(ranks)]
    return [number for together in zip(*of_rank, strict=True) for batch in together for number in batch]


@pytest.mark.parametrize("name", CASES)
def test_every_question_comes_once_an_epoch(name: str, read: Path) -> None:
    """The three legs, one after the other, draw what one process draws: the same questions in the same order."""
    legs = [drawn(read, name, ranks) for ranks, *_ in LEGS]
    assert [len(leg) for leg in legs] == [6 * 8, 12 * 8, 13 * 8]
    together = [number for leg in legs for number in leg]
    assert together == drawn(read, "zero0_alone", 1)
    questions = len(set(together))
    for epoch in (together[:questions], together[questions : 2 * questions]):
        assert len(set(epoch)) == questions


def losses(workplace: Path, name: str) -> list[float]:
    """The loss of every update."""
    lines = [json.loads(line) for line in (workplace / f"runs/{name}/metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("gated", "small"))])
def test_the_loss_goes_on_as_in_one_process(name: str, read: Path, workplace: Path) -> None:
    """All 31 losses are those of the run that one process has done alone, but for rounding."""
    reference, rounding = ("zero1_bf16", 2e-2) if name.endswith("bf16") else ("zero0", 1e-5)
    alone, legs = losses(workplace, f"{reference}_alone"), losses(workplace, name)
    assert len(alone) == len(legs) == 31
    assert alone == pytest.approx(legs, rel=rounding)
    assert alone[-1] < alone[0]


@pytest.mark.parametrize("name", ["gated", "small_group"])
def test_a_run_with_sampled_gates_comes_to_its_end(name: str, read: Path, workplace: Path) -> None:
    """Each number of ranks draws other noise, so the losses differ; the history is whole and the best is kept."""
    summary = json.loads((workplace / f"runs/{name}/summary.json").read_text())
    assert (summary["steps"], summary["world_size"]) == (31, 4)
    curves = (workplace / f"runs/{name}/plots/curves.csv").read_text().splitlines()
    assert len(curves) == 1 + 2
    assert len(losses(workplace, name)) == 31
