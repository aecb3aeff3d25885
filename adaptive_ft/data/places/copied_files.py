"""The shards of a set from elsewhere, as one stream reads them: copied ahead of it, and given up when it ends."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakSet

from adaptive_ft.data.places.open_files import OpenFiles
from adaptive_ft.data.places.shard_copies import ShardCopies

COPIES_AT_ONCE = 2
_MOST_OPEN = 128


class CopiedFiles:
    """The copies of a set, with descriptors, a plan and threads of its own."""

    def __init__(self, copies: ShardCopies) -> None:
        self.address = copies.remote.address
        self._copies = copies
        self._files = OpenFiles(lambda shard: copies.open(shard, self._stop), _MOST_OPEN)
        self._plan: tuple[int, ...] = ()
        self._copying: ThreadPoolExecutor | None = None
        self._under_way: dict[int, Future[None]] = {}
        self._stop = threading.Event()
        self._generations: dict[int, int] = {}
        self._lock = threading.Lock()
        _OPENED.add(self)

    def opened(self) -> "CopiedFiles":
        """The same copies for another stream."""
        return CopiedFiles(self._copies)

    def name(self, shard: int) -> str:
        """The copy, and where it comes from."""
        return f"{self._copies.path(shard)} (a copy of '{self._copies.origin(shard)}')"

    def size(self, shard: int) -> int:
        """That of the manifest: a copy that is shorter is none."""
        return self._copies.size(shard)

    def read_into(self, views: Sequence[memoryview], shard: int, offset: int) -> int:
        """Fill `views` from the copy, which is made now if it is not there."""
        return self._files.read_into(views, shard, offset)

    def generation(self, shard: int) -> int:
        """How often this stream has turned to another copy of the shard."""
        return self._generations.get(shard, 0)

    def renew(self, shard: int, generation: int) -> bool:
        """Throw a copy away and read from a new one, once for each shard: after that the fault is not the copy's.

        Where another stream or process has put a new one there, that is read.
        """
        path = self._copies.path(shard)
        with self._lock:
            if self._generations.get(shard, 0) != generation:
                return True  # another reader saw the damage, too, and was faster
            is_first = generation == 0
            if is_first and not self._files.is_replaced(shard, path):
                path.unlink(missing_ok=True)
            self._files.let_go(shard)  # after the name has gone: what is opened from now on is another file
            self._generations[shard] = generation + is_first
            return is_first

    def ahead(self, shards: Sequence[int]) -> None:
        """Copy these in the background, in this order; a copy that fails is tried again by whoever reads the shard."""
        if tuple(shards) == self._plan:
            return
        self._plan = tuple(shards)
        self._copies.plan(self, shards)
        # A file that is open keeps its blocks on the disk even when its name has gone.
        self._files.keep(frozenset(shards))
        self._under_way = {shard: copy for shard, copy in self._under_way.items() if not copy.done()}
        for shard in shards:
            if shard not in self._under_way and not self._copies.path(shard).is_file():
                self._copying = self._copying or ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="shard-copy")
                self._under_way[shard] = self._copying.submit(self._copies.make, shard, self._stop)

    def halt(self) -> None:
        """Make every copying of this stream fail that is under way or begins before `close`."""
        self._stop.set()

    def close(self) -> None:
        """Close all files and end the copies in the background, also those in the middle of a transfer."""
        self.halt()
        if self._copying is not None:
            self._copying.shutdown(cancel_futures=True)
        self._files.keep(())
        self._copies.plan(self, ())
        self._copying, self._under_way, self._plan = None, {}, ()
        self._stop = threading.Event()


_OPENED: WeakSet[CopiedFiles] = WeakSet()


def _halt_all() -> None:
    for files in list(_OPENED):
        files.halt()


# A program that ends by an exception has closed no stream, and concurrent.futures finishes whatever is queued, copy
# after copy, before anything of atexit is called. Its own hook is of this kind; the newest is called first.
threading._register_atexit(_halt_all)  # type: ignore[attr-defined]
