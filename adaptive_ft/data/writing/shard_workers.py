"""Processes that write shards: each takes the images of a whole shard, reads, checks and writes them by itself.

What travels are names and places of images with their questions, never their numbers. A worker outlives neither an
error nor an interrupted or killed parent.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from adaptive_ft.data.writing.shard_part import ShardWork
from adaptive_ft.errors import UserError

Result = TypeVar("Result")

_AHEAD = 2  # shards handed out per process: one being written, and one for when that is done
_own_work: ShardWork | None = None


class ShardWorkers:
    """A pool of processes for the shards of one set; `workers` makes and ends it."""

    def __init__(self, executor: ProcessPoolExecutor, processes: int) -> None:
        self._executor, self._ahead = executor, _AHEAD * processes

    def run(self, method: Callable[..., Result], calls: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """`method`, one of ShardWork's, called with each of `calls` in some process; the results in the order of calls.

        Few calls are drawn ahead, so that memory does not grow with their number. Raises what the first failing call
        raises; UserError if a process was killed.
        """
        running: deque[Future[Result]] = deque()
        calls = iter(calls)
        try:
            while True:
                for arguments in itertools.islice(calls, self._ahead - len(running)):
                    with _interrupts_held():  # what starts here never hears of Ctrl-C: its parent ends it
                        running.append(self._executor.submit(_call, method, arguments))
                if not running:
                    return
                yield running.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a process that wrote shards was killed, most likely for want of memory; the same command goes on where"
                " this one stopped, with fewer --processes"
            ) from None


@contextmanager
def workers(processes: int, work: ShardWork) -> Iterator[ShardWorkers]:
    """`processes` new processes that know `work`; none is left afterwards, whatever happened."""
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(work,)
    )
    try:
        yield ShardWorkers(executor, processes)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(work: ShardWork) -> None:
    global _own_work
    _own_work = work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(method: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    assert _own_work is not None
    return method(_own_work, *arguments)
