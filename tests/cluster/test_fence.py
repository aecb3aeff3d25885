"""A run that is suspended while its job starts again: it wakes up, says that it was taken over, and touches nothing."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

Tiny = Callable[..., list[str]]
Start = Callable[..., list[Popen[str]]]

PATIENCE_SECONDS = 240


def wait_for(path: Path, ranks: list[Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert all(rank.poll() is None for rank in ranks), "a rank ended by itself"
        assert time.monotonic() < deadline, f"no {path} came"
        time.sleep(0.01)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_wakes_up_after_it_was_taken_over_stops(
    tiny: Tiny, start_by_hand: Start, repository: Path, workplace: Path
) -> None:
    """Both ranks end with 1 and say why; what the new run has written stays to the last byte, and it is whole."""
    run = workplace / "runs/fenced"
    words = [repository / "train.py", *tiny("fenced", "--max_steps", "12", "--save_steps", "1"), "--resume", "auto"]
    old = start_by_hand(2, *words, SLURM_JOB_ID="7")
    wait_for(run / "checkpoints/step_000003/manifest.json", old)
    for rank in old:
        os.kill(rank.pid, signal.SIGSTOP)
    refused = start_by_hand(1, *words)[0]
    _, told = refused.communicate(timeout=PATIENCE_SECONDS)
    assert refused.returncode == 2
    assert f"process {old[0].pid} on " in told
    new = start_by_hand(2, *words, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    for rank in new:
        _, errors = rank.communicate(timeout=PATIENCE_SECONDS)
        assert rank.returncode == 0, errors
    finished = content(run)
    assert finished["generation"].split()[0] == b"2"
    for rank in reversed(old):
        os.kill(rank.pid, signal.SIGCONT)
        time.sleep(1)
    told_by = [rank.communicate(timeout=PATIENCE_SECONDS)[1] for rank in old]
    assert [rank.returncode for rank in old] == [1, 1], told_by
    for told in told_by:
        assert "was taken over by generation 2, this process is generation 1" in told
        assert "Traceback" not in told
    # The old ranks may have been in a folder of their own, or have had a file of their own half written.
    own = (".unfinished-1-", ".tmp")
    left, finished = (
        {path: data for path, data in files.items() if not any(word in path for word in own)}
        for files in (content(run), finished)
    )
    assert left == finished
