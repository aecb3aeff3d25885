"""Asked to stop: what asks, when it is heard, and that all ranks hear the same after the same update."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from adaptive_ft.engine.preemption import SIGNALS, StopRequests
from adaptive_ft.engine.ranks import Ranks

# Both ranks go through 30 updates in step. Rank 1 is signalled in the 5th, or the stop file comes in the 7th.
UPDATES = """
import json, os, signal, sys
from pathlib import Path
from adaptive_ft.engine.preemption import StopRequests
from adaptive_ft.engine.ranks import run_ranks

place, asks = Path(sys.argv[1]), sys.argv[2]

def main(ranks):
    told = []
    with StopRequests(ranks, str(place / "stop")) as requests:
        for update in range(1, 31):
            if asks == "signal" and update == 5 and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if asks == "file" and update == 7 and ranks.rank == 0:
                (place / "stop").touch()
            asked = requests.heard()
            if asked:
                told.append([update, asked])
                break
            ranks.barrier()
    (place / f"{ranks.rank}.json").write_text(json.dumps(told))

run_ranks(main)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_told(number: signal.Signals, ranks: Ranks) -> None:
    """Nothing, then the signal, however often it comes; afterwards the handlers are who they were."""
    former = signal.getsignal(number)
    with StopRequests(ranks, None) as requests:
        assert requests.heard() is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert requests.heard() == f"{number.name} at rank 0"
    assert signal.getsignal(number) == former


def test_a_stop_file_is_seen_as_soon_as_it_is_there(ranks: Ranks, tmp_path: Path) -> None:
    """Its path is told."""
    with StopRequests(ranks, str(tmp_path / "stop")) as requests:
        assert requests.heard() is None
        (tmp_path / "stop").touch()
        assert requests.heard() == f"the stop file {tmp_path / 'stop'}"


@pytest.mark.launch
@pytest.mark.parametrize(
    ("asks", "update", "words"), [("signal", 6, "SIGTERM at rank 1"), ("file", 8, "the stop file ")]
)
def test_two_ranks_hear_it_after_the_same_update(
    asks: str, update: int, words: str, start_by_hand: Callable[..., list[Popen[str]]], tmp_path: Path
) -> None:
    """One update after it was asked, on the rank that was asked as on the other."""
    (tmp_path / "updates.py").write_text(UPDATES)
    for rank in start_by_hand(2, tmp_path / "updates.py", tmp_path, asks):
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    ((heard_at, asked),) = first
    assert heard_at == update
    assert asked.startswith(words)
