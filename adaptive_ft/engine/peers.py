"""The connections between the ranks' watchdogs, one JSON object a line, and the door at which rank 0 takes them.

Whoever reaches the port may connect. Only a rank that shows the word of this run, which rank 0 has told to its ranks
alone, comes in; all others are sent away, and none of them keeps anybody waiting.
"""

import json
import os
import secrets
import selectors
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Line = dict[str, Any]

LONGEST_HELLO = 1000
LOOPBACK = ("127.0.0.1", "localhost")


class Peer:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rest = b""
        """What has come and was not taken yet."""
        self._cut = b""
        """The end of a line whose beginning was sent."""

    def receive(self) -> bool:
        """Take in what has come; False at the end of the connection."""
        try:
            piece = self.socket.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.rest += piece
        return bool(piece)

    def lines(self) -> list[Line]:
        """The whole lines that have come since the last call."""
        *whole, self.rest = self.rest.split(b"\n")
        return [json.loads(line) for line in whole]

    def hello(self) -> Line | None:
        """The first line, or one without anything where it is no JSON object; None while it has not come."""
        line, end, rest = self.rest.partition(b"\n")
        if not end and len(self.rest) < LONGEST_HELLO:
            return None
        self.rest = rest
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        return told if isinstance(told, dict) else {}

    def send(self, message: bytes) -> None:
        """Send a whole line, or nothing where the peer does not take it: it is judged by its own silence."""
        with suppress(OSError):
            if self._cut:
                self._cut = self._cut[self.socket.send(self._cut) :]
            if not self._cut:
                self._cut = message[self.socket.send(message) :]


def encode(line: Line) -> bytes:
    """The line as a peer sends it."""
    return json.dumps(line).encode() + b"\n"


class Door:
    """Where rank 0 lets the ranks in `missing` come, each once; it is closed when the last one has."""

    def __init__(self, missing: set[int], come: "Callable[[int, str, Peer, selectors.BaseSelector], None]") -> None:
        """`come(rank, host, peer, ready)` is called for each rank that comes, by whoever serves `ready`."""
        # A rank of another machine comes to this one by the address it has met rank 0 at.
        address = "127.0.0.1" if os.environ["MASTER_ADDR"] in LOOPBACK else ""
        self._listener = socket.create_server((address, 0), backlog=128)
        self._listener.setblocking(False)
        self._word = secrets.token_hex(16)
        self._missing, self._come = set(missing), come
        self._waiting: set[Peer] = set()
        self._warned = False

    @property
    def told(self) -> str:
        """What a rank must know to come in: the port and the word."""
        return f"{self._listener.getsockname()[1]} {self._word}"

    def open_to(self, ready: selectors.BaseSelector) -> None:
        """Have `ready` call for whoever comes: the data of its keys are functions to call."""
        self._ready = ready
        ready.register(self._listener, selectors.EVENT_READ, self._answer)

    def _answer(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again
        connection.setblocking(False)
        peer = Peer(connection)
        self._waiting.add(peer)
        self._ready.register(connection, selectors.EVENT_READ, lambda: self._listen(peer))

    def _listen(self, peer: Peer) -> None:
        if peer not in self._waiting:
            return  # the last rank came just before it and closed the door
        stands = peer.receive()
        told = peer.hello()
        if told is None and stands:
            return
        self._ready.unregister(peer.socket)
        self._waiting.remove(peer)
        rank = (told or {}).get("rank")
        if not told or told.get("word") != self._word or rank not in self._missing:
            self._send_away(peer)
            return
        self._missing.remove(rank)
        self._come(rank, str(told.get("host")), peer, self._ready)
        if not self._missing:
            self._close()

    def _send_away(self, peer: Peer) -> None:
        peer.socket.close()
        if not self._warned:
            self._warned = True
            print("warning: closed a connection to the watchdog that came from no rank of this run", file=sys.stderr)

    def _close(self) -> None:
        for peer in self._waiting:
            self._ready.unregister(peer.socket)
            peer.socket.close()
        self._waiting.clear()
        self._ready.unregister(self._listener)
        self._listener.close()
