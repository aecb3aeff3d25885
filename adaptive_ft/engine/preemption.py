"""Asked to stop: a stop file, SIGTERM or SIGUSR1 at any rank, agreed on by all ranks at one and the same place.

A batch system tells a job some time before it takes the machine away. The program then saves a whole checkpoint and
ends with exit code 75, "try again later": start the same command again with --resume auto.

Every rank posts what it has been asked after each update, and reads after the next one what all had posted: the sum
of the small talk is over by then, so no step waits for it. In an evaluation, which may take longer than a batch system
waits, they do so before each batch. It goes through a group of its own on the CPU (gloo), so
that no GPU waits for it either.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from adaptive_ft.engine.ranks import COLLECTIVE_TIMEOUT, Ranks

Item = TypeVar("Item")

STOPPED = os.EX_TEMPFAIL  # 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# What a rank can have been asked by, in the order of the numbers that are posted; 0 is nothing.
REASONS = ("the stop file", *(name.name for name in SIGNALS))


class StoppedOnRequest(SystemExit):
    """Ends the process with exit code 75; what it had learned, if anything, is in a whole checkpoint."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class AskedToStop(Exception):
    """All ranks have heard a request, whose words this holds; what can be saved has been."""


class StopRequests:
    """Listens for requests to stop between `with` and its end (entering is collective).

    The handlers only take a note, so a second signal changes nothing: the run still saves. Outside Python's main
    thread, where there can be no handlers, the stop file alone is looked at.
    """

    def __init__(self, ranks: Ranks, stop_file: str | None) -> None:
        self._ranks = ranks
        self._stop_file = Path(stop_file) if stop_file else None
        self._signal: int | None = None
        self._former: dict[signal.Signals, Any] = {}
        self._group: dist.ProcessGroup | None = None
        self._posted: tuple[Tensor, dist.Work] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {name: signal.signal(name, self._note) for name in SIGNALS}
        if self._ranks.world_size > 1:
            self._group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name, handler in self._former.items():
            signal.signal(name, handler)
        if self._group is not None and (kind is None or issubclass(kind, StoppedOnRequest)):
            if self._posted is not None:
                self._posted[1].wait()
            dist.destroy_process_group(self._group)

    def heard(self) -> str | None:
        """What asked the run to stop, in words: the same on every rank, None for nothing (collective, after every
        update and before every batch of an evaluation; what is asked during one of them is heard after that or the
        next).
        """
        own = self._own()
        if self._group is None:
            return self._words(own)
        number = torch.tensor([own])
        work = dist.all_reduce(number, dist.ReduceOp.MAX, self._group, async_op=True)
        before, self._posted = self._posted, (number, work)
        if before is None:
            return None
        number, work = before
        work.wait()
        return self._words(int(number))

    def heed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """`batches`, which are equally many on all ranks, up to one before which a request is heard (collective).

        Raises:
            AskedToStop: on all ranks at the same batch.
        """
        for batch in batches:
            asked = self.heard()
            if asked is not None:
                raise AskedToStop(asked)
            yield batch

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal = number

    def _own(self) -> int:
        """This rank's request as a number: 0 for none, else 1 + reason + rank * reasons."""
        if self._signal is not None:
            reason = 1 + SIGNALS.index(signal.Signals(self._signal))
        elif self._stop_file is not None and self._ranks.is_main and self._stop_file.exists():
            reason = 0
        else:
            return 0
        return 1 + reason + self._ranks.rank * len(REASONS)

    def _words(self, number: int) -> str | None:
        if number == 0:
            return None
        rank, reason = divmod(number - 1, len(REASONS))
        return f"the stop file {self._stop_file}" if reason == 0 else f"{REASONS[reason]} at rank {rank}"
