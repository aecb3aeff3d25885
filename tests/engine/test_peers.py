"""The door of rank 0 and the lines that go through it."""

import json
import selectors
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from adaptive_ft.engine.peers import Door, Peer, encode

PATIENCE_SECONDS = 60


@pytest.fixture
def ready() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        yield selector


def serve(ready: selectors.BaseSelector, keys: int) -> None:
    """Answer until so many are registered."""
    while len(ready.get_map()) < keys:
        for key, _ in ready.select(PATIENCE_SECONDS):
            key.data()


def test_a_stranger_who_speaks_as_the_last_rank_comes_is_sent_away(
    ready: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look finds the rank's hello and the stranger's; the door is closed when it is the stranger's turn."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    came: list[int] = []
    door = Door({1}, lambda rank, host, peer, ready: came.append(rank))
    door.open_to(ready)
    port, word = door.told.split()
    with closing(socket.create_connection(("127.0.0.1", int(port)))) as stranger:
        serve(ready, 2)
        with closing(socket.create_connection(("127.0.0.1", int(port)))) as rank_1:
            serve(ready, 3)
            rank_1.sendall(encode({"word": word, "rank": 1, "host": "n1"}))
            stranger.sendall(b"hello\n")
            own, found = rank_1.getsockname(), ready.select(PATIENCE_SECONDS)
            while len(found) < 2:
                found = ready.select(PATIENCE_SECONDS)
            for key, _ in sorted(found, key=lambda one: one[0].fileobj.getpeername() != own):  # type: ignore[union-attr]
                key.data()
            assert came == [1]
            assert not ready.get_map(), "the door is closed"
            stranger.settimeout(PATIENCE_SECONDS)
            with pytest.raises(ConnectionResetError):
                stranger.recv(1)


def test_lines_to_a_peer_that_is_slow_to_take_them_stay_whole() -> None:
    """What does not go into the full connection is left out, and the line that was cut is ended first."""
    here, there = socket.socketpair()
    with closing(here), closing(there):
        here.setblocking(False)
        peer, other = Peer(here), Peer(there)
        for number in range(5000):
            peer.send(encode({"number": number, "filling": "x" * 1000}))
        there.setblocking(False)
        told = []
        while other.receive() and (lines := other.lines()):
            told += lines
        assert 0 < len(told) < 5000
        peer.send(encode({"over": "the end"}))
        other.receive()
        assert other.lines()[-1] == {"over": "the end"}
        assert [line["number"] for line in told] == sorted(line["number"] for line in told)
        assert json.loads(encode(told[0])) == told[0]
