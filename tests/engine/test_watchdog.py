"""The ranks' watchdogs: who is let in, who is missed, what a rank says of itself, and that leaving waits for nobody."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine import watchdog
from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.peers import encode
from adaptive_ft.engine.progress import Place, blame
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.errors import UserError
from adaptive_ft.recorder import Recorder
from adaptive_ft.tasks.vqa_accuracy import AccuracyMeter, AccuracyReport
from adaptive_ft.trainer import Trainer

PATIENCE_SECONDS = 60


@pytest.mark.parametrize("failure", [None, UserError, SystemExit])
def test_two_ranks_meet_and_leave_without_waiting_for_a_beat(
    failure: type[BaseException] | None, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdogs of two ranks, here in two threads; with a beat of an hour they would leave after an hour."""
    monkeypatch.setattr(watchdog, "LARGEST_BEAT_SECONDS", 3600.0)
    left: list[int] = []
    host, guest = (Watchdog(Ranks(rank, rank, 2, torch.device("cpu")), 1e6) for rank in (0, 1))
    guest.key = host.key  # of other tests of this process there may be more of rank 0

    def live(rank: int, watch: Watchdog) -> None:
        expected = pytest.raises(failure) if failure else contextlib.nullcontext()
        with expected, watch:
            watch.phase("building the model")
            if failure is not None:
                raise failure
        left.append(rank)

    first = threading.Thread(target=live, args=(0, host), daemon=True)
    first.start()
    # Two threads share one connection to the store: who waits there would keep the other from telling.
    while not dist.distributed_c10d._get_default_store().check([host.key]):
        time.sleep(0.01)
    second = threading.Thread(target=live, args=(1, guest), daemon=True)
    second.start()
    for thread in (first, second):
        thread.join(PATIENCE_SECONDS)
    assert sorted(left) == [0, 1]


def test_a_rank_alone_has_no_watchdog(ranks: Ranks) -> None:
    """No thread and no connection, so nothing to pay for."""
    before = threading.active_count()
    with Watchdog(ranks, 1e-9) as watch:
        watch.step(1, "training")
        assert threading.active_count() == before


def test_rank_0_does_not_judge_anew_with_every_line_it_hears(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand ranks tell it something in every beat, and to judge them all takes long: once a beat is enough."""
    monkeypatch.setattr(watchdog, "LARGEST_BEAT_SECONDS", 3600.0)
    judged: list[float] = []

    def judge(*given: Any) -> str | None:
        judged.append(given[1])
        return blame(*given)

    monkeypatch.setattr(watchdog, "blame", judge)
    host = Watchdog(Ranks(0, 0, 2, torch.device("cpu")), 1e6)

    def live() -> None:
        with host:
            told.wait(PATIENCE_SECONDS)

    told = threading.Event()
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    store = dist.distributed_c10d._get_default_store()
    while not store.check([host.key]):
        time.sleep(0.01)
    _, port, word = store.get(host.key).decode().split()
    with socket.create_connection(("127.0.0.1", int(port))) as rank_1:
        rank_1.sendall(encode({"word": word, "rank": 1, "host": "n1"}))
        for step in range(1, 51):
            rank_1.sendall(encode(asdict(Place(step, 1, "training", judged=True))))
            deadline = time.monotonic() + PATIENCE_SECONDS
            while 1 not in host._seen or host._seen[1].place.steps < step:
                assert time.monotonic() < deadline, "the line was not heard"
                time.sleep(0.001)
        told.set()
        rank_1.sendall(encode({"ended": "done"}))
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert 1 <= len(judged) <= 3, "at the beginning, and when it was woken to leave"


# Rank 0 of three, with rank 1 in a thread beside it. Strangers come first; rank 2 never does.
MISSING = """
import socket, threading, time
import torch
import torch.distributed as dist
from adaptive_ft.engine.ranks import Ranks, start_ranks
from adaptive_ft.engine.watchdog import Watchdog

start_ranks()

def rank_1():
    store = dist.distributed_c10d._get_default_store()
    while not store.check(["watchdog 0"]):  # not wait: this thread and rank 0's share one connection to the store
        time.sleep(0.01)
    port = int(store.get("watchdog 0").decode().split()[1])
    for word in (b"[1]\\n", b"GET / HTTP/1.1\\r\\n", b'{"word": "no", "rank": 1}\\n', b"[" * 5000, b"{}\\n", b""):
        stranger = socket.create_connection(("127.0.0.1", port))
        stranger.sendall(word)
        if word:
            try:
                assert stranger.recv(1) == b"", "a stranger is sent away"
            except ConnectionResetError:
                pass
    silent = socket.create_connection(("127.0.0.1", port))
    with Watchdog(Ranks(1, 1, 3, torch.device("cpu")), 20.0) as watch:
        print("let in", flush=True)
        threading.Event().wait()

threading.Thread(target=rank_1, daemon=True).start()
with Watchdog(Ranks(0, 0, 3, torch.device("cpu")), 20.0):
    print("all have come", flush=True)
"""


def test_strangers_are_sent_away_and_a_rank_that_does_not_come_is_named(environment: dict[str, str]) -> None:
    """Also one who connects and says nothing keeps nobody waiting; one warning for all of them."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.splitlines()[-1] == "let in", done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith(("warning:", "error:"))]
    assert told == [
        "warning: closed a connection to the watchdog that came from no rank of this run",
        "error: Rank 2 of 3 has given no sign of life for 20 s (--rank_timeout) while meeting the other ranks."
        " The run ends; go on with --resume auto.",
    ]
    assert done.returncode == 1


# Rank 0 of three. What shows the word of the run is no rank, and tells something that no rank tells.
FAILING = """
import socket, threading, time
import torch
import torch.distributed as dist
from adaptive_ft.engine.peers import encode
from adaptive_ft.engine.ranks import Ranks, start_ranks
from adaptive_ft.engine.watchdog import Watchdog

start_ranks()

def rank_1():
    store = dist.distributed_c10d._get_default_store()
    while not store.check(["watchdog 0"]):
        time.sleep(0.01)
    _, port, word = store.get("watchdog 0").decode().split()
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.sendall(encode({"word": word, "rank": 1, "host": "n1"}) + encode({"nonsense": 1}))
        threading.Event().wait()

threading.Thread(target=rank_1, daemon=True).start()
with Watchdog(Ranks(0, 0, 3, torch.device("cpu")), 3600.0):
    pass
"""


def test_a_watchdog_that_fails_ends_its_process(environment: dict[str, str]) -> None:
    """Nobody would be missed from then on: the main thread waits for a rank that never comes."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1] == "error: The watchdog of rank 0 failed. The run ends; go on with --resume auto."
    assert "Traceback (most recent call last):" in lines


def test_rank_0_is_behind_the_others_while_it_works_for_all(ranks: Ranks) -> None:
    """Nothing else would tell it from those that wait for it, where a disk holds it for ever."""
    main, other = (Watchdog(Ranks(rank, rank, 1, ranks.device), 600) for rank in (0, 1))
    places: list[Place] = []
    for watch in (main, other):
        watch.rest("between two updates")
    main.on_main("recording", lambda: places.append(main.place))
    places.append(main.place)
    # The only rank of this group, which takes itself for another one: its work is left out.
    other.on_main("recording", lambda: places.append(other.place))
    assert [(place.doing, place.steps) for place in (*places, other.place)] == [
        ("recording", 2),
        ("between two updates", 4),
        ("between two updates", 4),
    ]
    with pytest.raises(UserError, match="no room"):
        main.on_main("recording", lambda: _refuse("no room"))
    assert main.place.doing == "waiting for the other ranks"


def _refuse(reason: str) -> None:
    raise UserError(reason)


def test_the_wait_for_rank_0_is_a_step_further_than_its_work(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rank 0 sees it: it stands at step 1, the others at step 2."""
    other, places = Watchdog(Ranks(1, 1, 1, ranks.device), 600), []
    on_main = Ranks.on_main

    def waited(ranks: Ranks, work: Callable[[], None]) -> None:
        places.append(other.place)
        on_main(ranks, work)

    monkeypatch.setattr(Ranks, "on_main", waited)
    other.on_main("recording", lambda: None)
    assert places == [Place(2, doing="waiting for rank 0")]


def test_an_evaluation_is_steps_and_its_scoring_is_none(
    tiny: Callable[..., list[str]], ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are judged one by one; what comes after them is left in peace, and so is what comes before training."""
    places: dict[str, list[Any]] = {"batch": [], "report": [], "record": [], "save": []}
    watch = Watchdog(ranks, 600)
    update, report = AccuracyMeter.update, AccuracyMeter.report
    curves, begin = Recorder.curves, CheckpointFolder.begin

    def updated(meter: AccuracyMeter, *given: Any) -> None:
        places["batch"].append(watch.place)
        update(meter, *given)

    def reported(meter: AccuracyMeter, expected: int | None = None) -> AccuracyReport:
        places["report"].append(watch.place)
        return report(meter, expected)

    def drawn(recorder: Recorder, *given: Any) -> None:
        places["record"].append(watch.place)
        curves(recorder, *given)

    def begun(folder: CheckpointFolder, tag: str) -> Path:
        places["save"].append(watch.place)
        return begin(folder, tag)

    monkeypatch.setattr(Recorder, "curves", drawn)
    monkeypatch.setattr(CheckpointFolder, "begin", begun)
    monkeypatch.setattr(AccuracyMeter, "update", updated)
    monkeypatch.setattr(AccuracyMeter, "report", reported)
    words = ("--output_dir", str(tmp_path), "--per_device_eval_batch_size", "16")
    run = build(load_run_config(tiny("placed", *words)), ranks, watch)
    assert str(watch.place) == "while building the engine"
    assert not watch.place.judged
    Trainer(run).fit()
    assert len(places["batch"]) > len(places["report"]) > 0
    assert all(place.judged and place.doing == "evaluating" for place in places["batch"])
    assert len({place.steps for place in places["batch"]}) == len(places["batch"])
    assert all(not place.judged and place.doing == "scoring" for place in places["report"])
    assert {place.doing for name in ("record", "save") for place in places[name]} == {"recording", "saving"}
