"""Killed at random points and resumed each time, a run ends with the weights of the one that nobody disturbed.

KILLS_PER_KIND=4, the default, kills it at 20 points (8 minutes on two cores); their table is printed.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest

Tiny = Callable[..., list[str]]
Ranks = list[Popen[str]]
Start = Callable[..., Ranks]

KINDS = ("SIGKILL one rank", "SIGKILL all ranks", "SIGTERM one rank", "SIGKILL one in a save", "SIGKILL all in a save")
POINTS_PER_KIND = int(os.environ.get("KILLS_PER_KIND", "4"))
# A point takes 3 to 6 updates in the mean, so that there is room to repeat those that miss their save; ZeRO-2 on 2
# ranks, 15 updates an epoch.
STEPS = 10 * POINTS_PER_KIND * len(KINDS)
LONG = (
    *("--max_steps", str(STEPS), "--save_steps", "3"),
    *("--adapt.strategy", "spottune", "--adapt.final_temperature", "0.5"),
)
PATIENCE_SECONDS = 300
STOPPED = 75


@dataclass
class Point:
    """One kill."""

    kind: str
    update: int
    resumed_from: str
    codes: list[int]
    cut_a_save: bool


def updates_recorded(run: Path) -> int:
    """The number of the last whole line's update, 0 before the first."""
    path = run / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")] if path.is_file() else []
    return int(lines[-1].split('"step": ')[1].split(",")[0]) if lines else 0


def unfinished(run: Path) -> set[str]:
    """Checkpoints that are being written, or were when their ranks died."""
    return {path.name for path in (run / "checkpoints").glob("*.unfinished-*")}


def waiting(ranks: Ranks) -> Iterator[None]:
    """Steps of a loop that waits for something the ranks do; ends where one of them has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while all(rank.poll() is None for rank in ranks):
        assert time.monotonic() < deadline, "the run does not come on"
        yield
        time.sleep(0.002)


def disturb(kind: str, run: Path, ranks: Ranks, chance: random.Random) -> None:
    """Let the new start come two to six updates on, in a save of its own where the kind says so, then kill."""
    began, first, left = time.time(), None, unfinished(run)
    more, pause = chance.randint(2, 6), chance.random() * (0.01 if "save" in kind else 0.05)
    metrics = run / "metrics.jsonl"
    for _ in waiting(ranks):
        if not metrics.exists() or metrics.stat().st_mtime < began:
            continue
        first = updates_recorded(run) if first is None else first
        if updates_recorded(run) >= first + more and ("save" not in kind or unfinished(run) - left):
            break
    time.sleep(pause)
    number = signal.SIGTERM if kind.startswith("SIGTERM") else signal.SIGKILL
    for rank in ranks if "all" in kind else [chance.choice(ranks)]:
        os.kill(rank.pid, number)


def ended(ranks: Ranks) -> tuple[list[int], str]:
    """Exit codes, and what rank 0 said."""
    said = [rank.communicate(timeout=PATIENCE_SECONDS) for rank in ranks]
    return [rank.returncode for rank in ranks], said[0][0]


def weights(run: Path) -> bytes:
    tag = (run / "checkpoints/latest").read_text().strip()
    return (run / "checkpoints" / tag / "adaptive/adaptive_model.safetensors").read_bytes()


def table(points: list[Point]) -> str:
    rows = [
        f"{number:5}  {point.kind:21}  {point.update:6}  {point.resumed_from:12}"
        f"  {point.cut_a_save!s:10}  {point.codes}"
        for number, point in enumerate(points, 1)
    ]
    return "\n".join(["point  kind                   update  resumed from  cut a save  exit codes", *rows])


def test_killed_at_random_points_a_run_comes_to_the_same_weights(
    tiny: Tiny, start_by_hand: Start, repository: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit. One rank or all are killed anywhere or in a save; or one is asked to stop, and both end with 75.

    A kill that comes after the save it was meant for counts as one more, and is repeated.
    """
    train = repository / "train.py"
    codes, _ = ended(start_by_hand(2, train, *tiny("left_alone", *LONG)))
    assert codes == [0, 0]
    chance = random.Random(20)
    kinds = POINTS_PER_KIND * list(KINDS)
    chance.shuffle(kinds)
    run = workplace / "runs/killed_often"
    words = [train, *tiny("killed_often", *LONG), "--resume", "auto"]
    points: list[Point] = []
    while kinds:
        kind, left = kinds[-1], unfinished(run)
        ranks = start_by_hand(2, *words)
        disturb(kind, run, ranks, chance)
        codes, said = ended(ranks)
        resumed = next(
            (line.split()[-1] for line in said.splitlines() if line.startswith("resuming from")), "the start"
        )
        cut = bool(unfinished(run) - left)
        points.append(Point(kind, updates_recorded(run), resumed, codes, cut))
        if cut or "save" not in kind:  # else the save was whole before the signal came: once more
            kinds.pop()
        assert 0 not in codes, "the run was over before it was killed"
        assert (codes == [STOPPED, STOPPED]) == kind.startswith("SIGTERM")
    codes, _ = ended(start_by_hand(2, *words))
    with capsys.disabled():
        print(f"\n{table(points)}")
    assert codes == [0, 0]
    assert weights(run) == weights(workplace / "runs/left_alone")
