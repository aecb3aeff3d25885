"""A rank that dies or is frozen ends the whole run, and one sentence names it; with real ranks and real signals."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

Tiny = Callable[..., list[str]]
Start = Callable[..., list[Popen[str]]]

PATIENCE_SECONDS = 240


@pytest.mark.parametrize(
    ("guilty", "number", "sentence"),
    [
        (1, signal.SIGKILL, r"Rank 1 of 2 \(.+\) died at update \d+"),
        (0, signal.SIGKILL, r"Rank 0 of 2 \(.+\) died at update \d+"),
        (1, signal.SIGSTOP, r"Rank 1 of 2 \(.+\) has given no sign of life for 20 s \(--rank_timeout\) at update \d+"),
        (0, signal.SIGSTOP, r"Rank 0 of 2 \(.+\) has given no sign of life for 2\d s \(--rank_timeout\) at update \d+"),
    ],
    ids=["rank 1 dies", "rank 0 dies", "rank 1 freezes", "rank 0 freezes"],
)
def test_a_rank_that_goes_ends_the_others_and_is_named(
    guilty: int, number: int, sentence: str, tiny: Tiny, start_by_hand: Start, repository: Path, workplace: Path
) -> None:
    """The other rank ends by itself with exit code 1 and one sentence, no traceback; a frozen one as it wakes up."""
    name = f"watched_{guilty}_{number}"
    words = tiny(name, "--max_steps", "100000", "--rank_timeout", "20", "--save_steps", "100000")
    ranks = start_by_hand(2, repository / "train.py", *words)
    metrics = workplace / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not metrics.is_file() or metrics.read_text().count("train/loss") < 3:
        assert all(rank.poll() is None for rank in ranks)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(ranks[guilty].pid, number)
    survivor = ranks[1 - guilty]
    _, told = survivor.communicate(timeout=PATIENCE_SECONDS)
    assert survivor.returncode == 1
    (line,) = [line for line in told.splitlines() if line.startswith("error")]
    assert re.match(f"error: {sentence}", line), line
    assert "Traceback" not in told
    os.kill(ranks[guilty].pid, signal.SIGCONT)
    ranks[guilty].communicate(timeout=PATIENCE_SECONDS)
    assert ranks[guilty].returncode != 0
