"""One rank alone meets numbers that are none, in training or in an evaluation: all ranks end together and say where."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

# The policy of rank 1 alone answers NaN from the second update on, or in evaluations after training has begun.
PROGRAM = """
import sys
from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import run_ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.trainer import Trainer

where, *words = sys.argv[1:]

def main(ranks):
    config = load_run_config(words, loud=ranks.is_main)
    with Watchdog(ranks, config.rank_timeout) as watch:
        run = build(config, ranks, watch)

        def poison(policy, inputs, logits):
            is_there = policy.training == (where == "training")
            return logits * float("nan") if ranks.rank == 1 and run.engine.updates >= 1 and is_there else logits

        run.parts.model.policy.register_forward_hook(poison)
        Trainer(run).fit()

run_ranks(main)
"""


@pytest.mark.parametrize(("where", "stage", "update"), [("training", 3, 2), ("evaluation", 2, 4)])
def test_what_is_no_number_on_one_rank_ends_all_with_one_sentence(
    where: str,
    stage: int,
    update: int,
    tiny: Callable[..., list[str]],
    start_by_hand: Callable[..., list[Popen[str]]],
    workplace: Path,
) -> None:
    """Nobody waits for it and nothing is saved; the rank and the update are named, the questions are kept."""
    words = tiny(f"poisoned_{where}", "--max_steps", "4", "--tracking.logging_steps", "4", stage=stage)
    ranks = start_by_hand(2, "-c", PROGRAM, where, *words)
    told = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], "\n=====\n".join(told)
    (line,) = [line for one in told for line in one.splitlines() if line.startswith("error")]
    what = "The training diverged at" if where == "training" else "The model diverged in the evaluation after"
    assert line.startswith(f"error: {what} update {update} on rank 1 of 2: "), line
    assert "Traceback" not in "".join(told)
    folder = workplace / f"runs/poisoned_{where}"
    assert str(folder / "diverged.json") in line
    found = json.loads((folder / "diverged.json").read_text())
    assert (found["update"], found["during"]) == (update, where)
    if where == "training":
        batches = [batch for rank in found["ranks"] for batch in rank["micro_batches"]]
        assert [(len(batch["question_ids"]), batch["sound"]) for batch in batches] == [(4, True), (4, False)]
    else:
        asked = [len(rank["question_ids"]) for rank in found["ranks"]]
        assert asked[0] == 0 < asked[1]
    assert not list(folder.glob("checkpoints/*"))
