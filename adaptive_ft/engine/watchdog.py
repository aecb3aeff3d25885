"""A rank that dies or hangs ends the whole job in bounded time, with its number and where it was in one sentence.

Without it the others wait in a collective for one that never comes: gloo notices a peer's death at once but not who
or where, NCCL notices nothing, and a frozen process is not noticed by either. Here a thread of every rank keeps a
connection to a thread of rank 0, says every few seconds how far its rank has come, and hears that rank 0 is alive. A
connection that ends without a goodbye is a death; long silence, or one step that takes too long, is a hang.
"""

import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import count
from typing import Self, TypeVar

import torch.distributed as dist

from adaptive_ft.engine.peers import Door, Line, Peer, encode
from adaptive_ft.engine.progress import Limits, Place, Seen, blame
from adaptive_ft.engine.ranks import COLLECTIVE_TIMEOUT, Ranks
from adaptive_ft.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_BEAT_SECONDS = 5.0
GRACE_SECONDS = 10.0
VERDICT_SECONDS = 5.0
# Just before the collective ends in which the others wait, and which does not know for whom.
WORK_SECONDS = COLLECTIVE_TIMEOUT.total_seconds() - 60
# Of the watchdogs of this process, by rank; ranks make theirs in the same order.
NUMBERS: defaultdict[int, Iterator[int]] = defaultdict(count)


class NotFound(UserError):
    """The ranks cannot watch each other."""

    exit_code = 1


class Watchdog:
    """Watches all ranks between `with` and its end (entering is collective); alone, a rank is not watched, and before
    it is entered nobody is.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self._ranks = ranks
        self._limits = Limits(timeout, min(LARGEST_BEAT_SECONDS, timeout / 10), GRACE_SECONDS, WORK_SECONDS)
        self._peers: dict[int, Peer] = {}
        self._seen: dict[int, Seen] = {}
        self._leaving: str | None = None
        self._due = float("-inf")
        self._thread: threading.Thread | None = None
        self.key = f"watchdog {next(NUMBERS[ranks.rank])}"
        """Under which rank 0 tells the store of the run where it listens."""
        self.place = Place()
        """Where this rank is."""

    def step(self, update: int, doing: str) -> None:
        """This rank begins a step of `update`; the next step, or `rest`, must come within the time limit."""
        self._go(Place(self.place.steps + 1, update, doing, judged=True))

    def rest(self, doing: str) -> None:
        """What begins now may take any time: only signs of life are asked for."""
        self._go(Place(self.place.steps + 1, self.place.update, doing))

    def phase(self, doing: str) -> None:
        """As `rest`, for what belongs to no update."""
        self._go(Place(self.place.steps + 1, 0, doing))

    def steps(self, items: Iterable[Item], update: int, doing: str, then: str) -> Iterator[Item]:
        """`items`, where getting each of them and what is done with it is a step, and the end is a rest."""
        self.step(update, doing)
        for item in items:
            yield item
            self.step(update, doing)
        self.rest(then)

    def on_main(self, doing: str, work: Callable[[], Result]) -> Result:
        """`ranks.on_main` where the other ranks are a step ahead: rank 0 is named if it comes to no end of `work`."""

        def done() -> Result:
            try:
                return work()
            finally:
                self.rest("waiting for the other ranks")

        before = self.place.doing
        self.rest(doing)
        if not self._ranks.is_main:
            self.rest("waiting for rank 0")
        result = self._ranks.on_main(done)
        self.rest(before)
        return result

    def _go(self, place: Place) -> None:
        before, self.place = self.place, place
        # Updates are told with the next beat, which is soon enough; the few phases around them at once.
        if self._thread is not None and not (before.update and place.update):
            with suppress(BlockingIOError):
                self._wake.send(b".")

    def __enter__(self) -> Self:
        if self._ranks.world_size > 1:
            self._wake, woken = socket.socketpair()
            self._wake.setblocking(False)
            start = self._host if self._ranks.is_main else self._join
            self._all_here = threading.Event()
            self._thread = threading.Thread(target=self._watch, args=(start(), woken), name="watchdog", daemon=True)
            self._thread.start()
            self._all_here.wait()  # not for ever: the thread ends the process where somebody does not come
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is None:
            return
        ours = kind is None or not issubclass(kind, Exception) or issubclass(kind, UserError)
        if not ours:
            # Mostly the broken connection to a peer: the thread ends the process when it knows whose.
            self._thread.join(VERDICT_SECONDS)
        self._leaving = "done" if kind is None or issubclass(kind, SystemExit) else "failed"
        self._wake.close()
        self._thread.join(3 * self._limits.beat)
        self._thread = None

    def _host(self) -> Callable[[selectors.BaseSelector], None]:
        """Rank 0's part: tell the others where it listens. What to do when the watch begins."""
        others = set(range(1, self._ranks.world_size))
        door = Door(others, self._meet)
        dist.distributed_c10d._get_default_store().set(self.key, f"{socket.gethostname()} {door.told}")
        # Who does not come is silent.
        self._seen = {rank: Seen(time.monotonic(), time.monotonic()) for rank in others}
        return door.open_to

    def _join(self) -> Callable[[selectors.BaseSelector], None]:
        """The other ranks' part: connect to rank 0. What to do when the watch begins.

        Raises:
            NotFound: rank 0 has not told where it listens, or cannot be reached there.
        """
        store, address, limit = (
            dist.distributed_c10d._get_default_store(),
            os.environ["MASTER_ADDR"],
            self._limits.timeout,
        )
        try:
            store.wait([self.key], timedelta(seconds=limit))
        except dist.DistStoreError as error:
            raise NotFound(f"Rank 0 has not begun to watch the others for {limit:g} s (--rank_timeout).") from error
        host, port, word = store.get(self.key).decode().split()
        own = socket.gethostname()
        try:
            peer = Peer(socket.create_connection((address, int(port)), limit))
        except OSError as error:
            raise NotFound(
                f"Rank {self._ranks.rank} ({own}) cannot reach rank 0 at {address}, port {port}: {error}. Ranks meet"
                " at ports that the system chooses; no firewall between them may close these."
            ) from error
        peer.send(encode({"word": word, "rank": self._ranks.rank, "host": own}))
        peer.socket.setblocking(False)
        return lambda ready: self._meet(0, host, peer, ready)

    def _meet(self, rank: int, host: str, peer: Peer, ready: selectors.BaseSelector) -> None:
        """A rank has come, or rank 0 was reached."""
        now = time.monotonic()
        self._peers[rank], self._seen[rank] = peer, Seen(now, now, host=host)
        ready.register(peer.socket, selectors.EVENT_READ, lambda: self._listen(rank, ready))
        self._hear(rank, peer.lines())
        if not self._ranks.is_main or len(self._peers) == self._ranks.world_size - 1:
            self._all_here.set()

    def _watch(self, begin: Callable[[selectors.BaseSelector], None], woken: socket.socket) -> None:
        """The thread's own work. Without it a rank would wait for ever for one that does not come."""
        try:
            self._send_and_hear(begin, woken)
        except BaseException:
            traceback.print_exc()
            _end_process(f"The watchdog of rank {self._ranks.rank} failed.", told=True)

    def _send_and_hear(self, begin: Callable[[selectors.BaseSelector], None], woken: socket.socket) -> None:
        """Until this rank leaves or somebody is to blame."""
        own, beat = self._ranks.rank, self._limits.beat
        now = time.monotonic()
        self._seen[own] = Seen(now, now, host=socket.gethostname())
        with woken, selectors.DefaultSelector() as ready:
            begin(ready)
            ready.register(woken, selectors.EVENT_READ, lambda: self._hurry(woken))
            while self._leaving is None:
                before = now
                for key, _ in ready.select(max(0.0, self._due - now)):
                    key.data()
                now = time.monotonic()
                if now - before > 5 * beat + 1:  # this process was suspended itself: nobody else is to blame
                    for seen in self._seen.values():
                        seen.forgive(now)
                # Not with every line that comes: rank 0 hears a thousand ranks, and each would cost it a thousand.
                if now >= self._due:
                    self._due = now + beat
                    self._seen[own].hear(self.place, now)
                    self._send(asdict(self.place))
                    self._judge(now)
        self._send({"ended": self._leaving})
        for peer in self._peers.values():
            peer.socket.close()

    def _send(self, line: Line) -> None:
        message = encode(line)
        for peer in self._peers.values():
            peer.send(message)

    def _hurry(self, woken: socket.socket) -> None:
        """The next beat is due at once."""
        woken.recv(64)
        self._due = float("-inf")

    def _listen(self, rank: int, ready: selectors.BaseSelector) -> None:
        peer, seen = self._peers[rank], self._seen[rank]
        stands = peer.receive()
        self._hear(rank, peer.lines())
        if not stands:
            ready.unregister(peer.socket)
            if seen.ended is None:
                seen.end("died", time.monotonic())
                self._due = float("-inf")

    def _hear(self, rank: int, lines: list[Line]) -> None:
        now = time.monotonic()
        for line in lines:
            if "over" in line:
                _end_process(line["over"], told=False)  # rank 0 tells it
            elif "ended" in line:
                self._seen[rank].end(line["ended"], now)
            else:
                self._seen[rank].hear(Place(**line), now)

    @property
    def _tells(self) -> bool:
        """Whether this rank speaks for a machine that has lost rank 0."""
        return self._ranks.local_rank == 0 or self._ranks.rank == 1

    def _judge(self, now: float) -> None:
        """Rank 0 judges everybody, the others judge rank 0 by its signs of life alone; then all end."""
        world_size, limits = self._ranks.world_size, self._limits
        if self._ranks.is_main:
            sentence = blame(self._seen, now, limits, world_size)
        else:
            main = self._seen[0]
            by_signs = replace(main, place=replace(main.place, judged=False))
            # Rank 0 is given time to tell who else is to blame.
            sentence = blame({0: by_signs}, now, replace(limits, timeout=limits.timeout + 2 * limits.beat), world_size)
        if sentence is None:
            return
        self._send({"over": sentence})
        _end_process(sentence, told=self._ranks.is_main or self._tells)


def _end_process(sentence: str, *, told: bool) -> None:
    if told:
        print(f"error: {sentence} The run ends; go on with --resume auto.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
