"""A rank that dies or hangs ends the whole job in bounded time, with its number and the update in one sentence.

Without it the others wait in a collective for one that never comes: gloo notices a peer's death at once but not who
or where, NCCL notices nothing, and a frozen process is not noticed by either. Here a thread of every rank keeps a
connection to a thread of rank 0, says every few seconds how far its rank has come, and hears that rank 0 is alive. A
connection that ends without a goodbye is a death; long silence, or one step that takes too long, is a hang.
"""

import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from typing import Any, Self

import torch.distributed as dist

from adaptive_ft.engine.progress import Place, Seen, blame
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError

LARGEST_BEAT_SECONDS = 5.0
GRACE_SECONDS = 10.0
"""Ranks that fail together may tell it one after the other."""
VERDICT_SECONDS = 5.0
NUMBERS = count()  # of the watchdogs of this process; ranks make theirs in the same order
Line = dict[str, Any]


class Watchdog:
    """Watches all ranks between `with` and its end (entering is collective); alone, a rank is not watched."""

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self._ranks, self._timeout = ranks, timeout
        self._beat = min(LARGEST_BEAT_SECONDS, timeout / 10)
        self._place = Place()
        self._leaving: str | None = None
        self._thread: threading.Thread | None = None
        self._key = f"watchdog {next(NUMBERS)}"

    def step(self, update: int, doing: str) -> None:
        """This rank begins a step of `update`; the next step, or `rest`, must come within the time limit."""
        self._place = Place(self._place.steps + 1, update, doing, judged=True)

    def rest(self, doing: str) -> None:
        """What begins now may take any time: only signs of life are asked for."""
        self._place = Place(self._place.steps + 1, self._place.update, doing)

    def stepping(self, update: int, doing: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, each call of which is a step."""

        def stepped(*words: Any, **named: Any) -> Any:
            self.step(update, doing)
            return work(*words, **named)

        return stepped

    def __enter__(self) -> Self:
        if self._ranks.world_size > 1:
            watch = self._host() if self._ranks.is_main else self._join()
            self._thread = threading.Thread(target=watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is None:
            return
        ours = kind is None or not issubclass(kind, Exception) or issubclass(kind, UserError)
        if not ours:
            # Mostly the broken connection to a peer: the thread ends the process when it knows whose.
            self._thread.join(VERDICT_SECONDS)
        self._leaving = "done" if kind is None or issubclass(kind, SystemExit) else "failed"
        self._thread.join(3 * self._beat)

    def _host(self) -> Callable[[], None]:
        """Rank 0's part: take everybody's connection, then watch."""
        # A rank of another machine comes to this one by the address it has met rank 0 at.
        here = os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost")
        listener = socket.create_server(("127.0.0.1" if here else "", 0), backlog=self._ranks.world_size)
        word = secrets.token_hex(16)
        dist.distributed_c10d._get_default_store().set(self._key, f"{listener.getsockname()[1]} {word}")
        peers: dict[int, Peer] = {}
        while len(peers) < self._ranks.world_size - 1:
            peer = Peer(listener.accept()[0])
            peer.socket.settimeout(self._timeout)
            hello = peer.first_line()
            if hello.get("word") == word:
                peers[hello["rank"]] = peer
        listener.close()
        return lambda: self._watch_all(peers)

    def _join(self) -> Callable[[], None]:
        """The other ranks' part: connect to rank 0, then watch it."""
        told = dist.distributed_c10d._get_default_store().get(self._key).decode()
        port, word = told.split()
        peer = Peer(socket.create_connection((os.environ["MASTER_ADDR"], int(port)), self._timeout))
        peer.send({"word": word, "rank": self._ranks.rank})
        return lambda: self._watch_all({0: peer})

    def _watch_all(self, peers: "dict[int, Peer]") -> None:
        """Send and hear until this rank leaves or somebody is to blame."""
        now = time.monotonic()
        own = self._ranks.rank
        seen = {rank: Seen(now, now) for rank in (own, *peers)}
        with selectors.DefaultSelector() as ready:
            for rank, peer in peers.items():
                peer.socket.setblocking(False)
                ready.register(peer.socket, selectors.EVENT_READ, rank)
            while self._leaving is None:
                before = now
                for key, _ in ready.select(self._beat):
                    self._hear(key.data, peers[key.data], seen[key.data], ready)
                now = time.monotonic()
                if now - before > 5 * self._beat + 1:  # this process was suspended itself: nobody else is to blame
                    seen = {rank: Seen(now, now, was.place, was.ended, now) for rank, was in seen.items()}
                seen[own].hear(self._place, now)
                for peer in peers.values():
                    peer.send_at(now, self._beat, asdict(self._place))
                self._judge(seen, peers, now)
        for peer in peers.values():
            peer.send({"ended": self._leaving})
            peer.socket.close()

    def _hear(self, rank: int, peer: "Peer", seen: Seen, ready: selectors.BaseSelector) -> None:
        lines = peer.lines()
        now = time.monotonic()
        for line in lines or ():
            if "over" in line:
                _end_process(line["over"], told=False)  # rank 0 tells it
            elif "ended" in line:
                seen.end(line["ended"], now)
            else:
                seen.hear(Place(**line), now)
        if lines is None:
            ready.unregister(peer.socket)
            if seen.ended is None:
                seen.end("died", now)

    @property
    def _tells(self) -> bool:
        """Whether this rank speaks for a machine that has lost rank 0."""
        return self._ranks.local_rank == 0 or self._ranks.rank == 1

    def _judge(self, seen: dict[int, Seen], peers: "dict[int, Peer]", now: float) -> None:
        """Rank 0 judges everybody, the others judge rank 0 by its signs of life alone; then all end."""
        if self._ranks.is_main:
            sentence = blame(seen, now, self._timeout, self._beat, GRACE_SECONDS)
        else:
            main = seen[0]
            resting = Seen(main.heard, main.heard, Place(0, main.place.update, main.place.doing), main.ended)
            resting.ended_at = main.ended_at
            sentence = blame({0: resting}, now, self._timeout + 2 * self._beat, self._beat, GRACE_SECONDS)
        if sentence is None:
            return
        for peer in peers.values():
            peer.send({"over": sentence})
        _end_process(sentence, told=self._ranks.is_main or self._tells)


class Peer:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._rest = b""
        self._sent = float("-inf")

    def first_line(self) -> Line:
        """The line a stranger comes with; nothing for one that says nothing we understand."""
        try:
            while b"\n" not in self._rest and len(self._rest) < 1000:
                piece = self.socket.recv(1000)
                if not piece:
                    return {}
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\n")
            hello: Line = json.loads(line)
        except (OSError, ValueError):
            return {}
        return hello

    def lines(self) -> list[Line] | None:
        """What has come; None at the end of the connection."""
        try:
            piece = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not piece:
            return None
        *whole, self._rest = (self._rest + piece).split(b"\n")
        return [json.loads(line) for line in whole]

    def send_at(self, now: float, beat: float, line: Line) -> None:
        """Send at most once a beat."""
        if now - self._sent >= beat:
            self._sent = now
            self.send(line)

    def send(self, line: Line) -> None:
        """A peer that does not take it is judged by its own silence."""
        try:
            self.socket.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            return


def _end_process(sentence: str, *, told: bool) -> None:
    if told:
        print(f"error: {sentence} The run ends; go on with --resume auto.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
