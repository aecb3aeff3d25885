"""Batches for training (endless, resumable by one integer) and for evaluation (every question exactly once).

B is the rows of a rank's micro-batch, R the number of ranks. What a batch is (see batch.py) the reader of the shards
decides, and the task that collates it knows; here it is anything.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any, Self, TypeVar

from adaptive_ft.data.reading.bad_samples import BadSamples, StopAtBad
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.order import EndlessOrder, evaluation_slice
from adaptive_ft.data.reading.shard_reader import open_reader
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError

PREFETCHED_BATCHES = 4  # at least
_CONSUMED_BATCHES = 3  # in the hands of the consumer: one in work, one on its way to the GPU, one not yet forgotten
SHARDS_AHEAD = 4  # of an evaluation, which reads one after the other
_Job = TypeVar("_Job")
_Batch = TypeVar("_Batch")


class TrainStream:
    """An endless stream of batches: global micro-batch at position p = examples p .. p + B * R - 1.

    Rank r takes the r-th B of them, so the ranks together see the same examples for every R that gives the
    same B * R. The state is the number of examples all ranks have seen; any world size may continue from it.
    `readers` threads read ahead; 0 reads in the consumer's own. A damaged sample is told to `bad`, by default one that
    stops at it; left out, its row is there and not valid, so that the order of all others stays what it was.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        readers: int = 1,
        bad: BadSamples | None = None,
    ) -> None:
        _check_sizes(batch_size, rank, world_size, readers)
        self._order = EndlessOrder(shards.examples_per_shard, seed)
        own = shards.for_stream()
        self._bad, self._files = bad or StopAtBad(), own.files
        self._reader = open_reader(own, self._bad, _memory(readers))
        self._batch_size, self._rank, self._world_size, self._readers = batch_size, rank, world_size, readers
        self._examples_seen, self._seconds_waited = 0, 0.0
        self._batches: Generator[Any, None, None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            jobs = self._jobs(self._examples_seen)
            self._batches = read_ahead(self._read, jobs, self._readers, self._files.halt)
        asked = time.perf_counter()
        try:
            batch = next(self._batches)
        except BaseException:
            # A generator that raised is exhausted: asking again must repeat the error, not end the stream.
            self._batches = None
            self._files.close()
            raise
        self._seconds_waited += time.perf_counter() - asked
        self._examples_seen += self._step
        return batch

    @property
    def seconds_waited(self) -> float:
        """How long the consumer has waited for batches, all together."""
        return self._seconds_waited

    @property
    def bad(self) -> BadSamples:
        """What is done about damaged examples, and which were met."""
        return self._bad

    def state_dict(self) -> dict[str, int]:
        """Examples that all ranks together have been handed; batches read ahead do not count."""
        return {"examples_seen": self._examples_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after `examples_seen` examples, at once."""
        self.close()
        self._examples_seen = int(state["examples_seen"])

    def close(self) -> None:
        """Stop and join the threads that read and copy ahead; the stream can still be continued."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
        self._reader.close()
        self._files.close()

    @property
    def _step(self) -> int:
        return self._batch_size * self._world_size

    def _jobs(self, position: int) -> Iterator[list[int]]:
        """This rank's examples from `position` on, drawn by the consumer: the order needs no lock."""
        for start in count(position + self._rank * self._batch_size, self._step):
            self._files.ahead(self._order.shards_ahead(start))
            yield self._order.examples(start, start + self._batch_size).tolist()

    def _read(self, examples: list[int]) -> Any:
        return self._reader.read_batch(examples)


class EvalStream:
    """Every question exactly once over all ranks, in order, in the same number of full batches on every rank.

    A rank that runs out of questions repeats the last one in rows with valid_B = False.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        readers: int = 1,
    ) -> None:
        _check_sizes(batch_size, rank, world_size, readers)
        self._shards = shards.for_stream()
        # Never skips: a score on fewer questions would be another score.
        self._reader = open_reader(self._shards, StopAtBad(), _memory(readers))
        self._batch_size, self._readers = batch_size, readers
        self._examples = evaluation_slice(shards.num_examples, rank, world_size)
        self._last = shards.num_examples - 1
        self._num_batches = -(-len(evaluation_slice(shards.num_examples, 0, world_size)) // batch_size)

    def __len__(self) -> int:
        """Batches, the same on every rank."""
        return self._num_batches

    def __iter__(self) -> Generator[Any, None, None]:
        files = self._shards.files
        try:
            yield from read_ahead(self._read, self._jobs(), self._readers, files.halt)
        finally:
            self._reader.close()
            files.close()

    def _jobs(self) -> Iterator[int]:
        for number in range(self._num_batches):
            first = min(self._examples.start + number * self._batch_size, self._last)
            shard = self._shards.locate(first).shard
            self._shards.files.ahead(range(shard, min(shard + SHARDS_AHEAD, len(self._shards.manifest.shards))))
            yield number

    def _read(self, number: int) -> Any:
        examples = list(self._examples[number * self._batch_size : (number + 1) * self._batch_size])
        padding = [self._last] * (self._batch_size - len(examples))
        return self._reader.read_batch(examples + padding, num_valid=len(examples))


def read_ahead(
    read: Callable[[_Job], _Batch],
    jobs: Iterable[_Job],
    readers: int,
    halt: Callable[[], None],
    depth: int | None = None,
) -> Generator[_Batch, None, None]:
    """`read(job)` for every job, in order, by `readers` threads that work up to `depth` jobs ahead, by default as many
    as `batches_ahead` says.

    An exception in a thread comes out here, at its batch. Closing the generator, an error or Ctrl-C calls `halt`, which
    must make every `read` that waits for something fail, and joins the threads. Without readers every job is done when
    its turn comes.
    """
    if readers == 0:
        yield from map(read, jobs)
        return
    jobs = iter(jobs)
    threads = ThreadPoolExecutor(readers, thread_name_prefix="shard-reader")
    waiting: deque[Future[_Batch]] = deque()
    try:
        waiting.extend(threads.submit(read, job) for job in islice(jobs, depth or batches_ahead(readers)))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(threads.submit(read, job) for job in islice(jobs, 1))
            yield batch
    finally:
        halt()
        threads.shutdown(wait=True, cancel_futures=True)


def batches_ahead(readers: int) -> int:
    """How many batches are read ahead: for every thread the one it reads, and one that waits for the consumer."""
    return max(PREFETCHED_BATCHES, 2 * readers)


def _memory(readers: int) -> BatchMemory:
    """Enough for the batches that wait, the one in the hands of each thread, and those of the consumer."""
    return BatchMemory(batches_ahead(readers) + readers + _CONSUMED_BATCHES)


def _check_sizes(batch_size: int, rank: int, world_size: int, readers: int) -> None:
    if batch_size < 1 or readers < 0:
        raise UserError(f"batch_size {batch_size} must be at least 1, and readers {readers} at least 0")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in a world of {world_size} ranks")
