"""Shards from elsewhere: copied to a disk of this machine when they are needed, shared by all its processes, and
removed where they would take more than their room.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from adaptive_ft.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry
from adaptive_ft.data.places.open_files import OpenFiles
from adaptive_ft.data.places.remote import RemoteFolder
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

COPIES_AT_ONCE = 2
_MOST_OPEN = 128


class CopiedFiles:
    """The shards of a set from elsewhere, as copies in `folder`.

    Those this process plans to read are never removed; of the others the one that was opened least recently goes first.
    What is being copied at the moment may pass the room. A copy whose size is wrong is made again.
    """

    def __init__(self, remote: RemoteFolder, folder: Path, manifest: Manifest, room: int) -> None:
        self.address = remote.address
        self._remote, self._folder, self._entries, self._room = remote, folder, manifest.shards, room
        self._files = OpenFiles(self._open, _MOST_OPEN)
        self._plan: tuple[int, ...] = ()
        self._copying: ThreadPoolExecutor | None = None
        self._under_way: dict[int, Future[None]] = {}
        self._stop = threading.Event()
        self._generations = [0] * len(manifest.shards)
        self._lock = threading.Lock()

    def name(self, shard: int) -> str:
        """The copy, and where it comes from."""
        return f"{self._path(shard)} (a copy of '{self._remote.url(self._entries[shard].file)}')"

    def read_into(self, views: Sequence[memoryview], shard: int, offset: int) -> int:
        """Fill `views` from the copy, which is made now if it is not there."""
        return self._files.read_into(views, shard, offset)

    def generation(self, shard: int) -> int:
        """How often this process has thrown a copy of the shard away."""
        return self._generations[shard]

    def renew(self, shard: int, generation: int) -> bool:
        """Throw a copy away and read from a new one, once for each shard: after that the fault is not the copy's."""
        with self._lock:
            if self._generations[shard] != generation:
                return True  # another reader saw the damage, too, and was faster
            is_first = generation == 0
            if is_first:
                self._path(shard).unlink(missing_ok=True)
            self._files.let_go(shard)  # after the name has gone: what is opened from now on is another file
            self._generations[shard] += is_first
            return is_first

    def ahead(self, shards: Sequence[int]) -> None:
        """Copy these in the background, in this order; a copy that fails is tried again by whoever reads the shard."""
        if tuple(shards) == self._plan:
            return
        self._plan = tuple(shards)
        # A file that is open keeps its blocks on the disk even when its name has gone.
        self._files.keep(frozenset(shards))
        self._under_way = {shard: copy for shard, copy in self._under_way.items() if not copy.done()}
        for shard in shards:
            if shard not in self._under_way and not self._path(shard).is_file():
                self._copying = self._copying or ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="shard-copy")
                self._under_way[shard] = self._copying.submit(self._copy, shard)

    def halt(self) -> None:
        """Make every copying fail that is under way or begins before `close`."""
        self._stop.set()

    def close(self) -> None:
        """Close all files and end the copies in the background, also those in the middle of a transfer."""
        self.halt()
        if self._copying is not None:
            self._copying.shutdown(cancel_futures=True)
        self._files.keep(())
        self._copying, self._under_way, self._plan = None, {}, ()
        self._stop = threading.Event()

    def _path(self, shard: int) -> Path:
        return self._folder / self._entries[shard].file

    def _open(self, shard: int) -> int:
        while True:
            # Another process may make room between the copying and the opening; an open file stays readable.
            with suppress(FileNotFoundError):
                descriptor = os.open(self._path(shard), os.O_RDONLY)
                if os.fstat(descriptor).st_size == self._entries[shard].bytes:
                    os.utime(descriptor)
                    return descriptor
                os.close(descriptor)
                self._path(shard).unlink(missing_ok=True)
            self._copy(shard)

    def _copy(self, shard: int) -> None:
        entry, path = self._entries[shard], self._path(shard)
        with one_at_a_time(self._folder / f".{entry.file}.lock", self._stop):
            for left in self._folder.glob(f".{entry.file}.*.tmp"):
                left.unlink(missing_ok=True)  # of a process that was killed: nobody else copies this shard now
            if not path.is_file():
                self._make_room(entry.bytes)
                self._remote.copy(entry.file, path, entry.bytes, entry.sha256, self._stop)

    def _make_room(self, needed: int) -> None:
        """Remove copies that no plan of this process names until `needed` bytes more are within the room."""
        planned = {self._entries[shard].file for shard in self._plan}
        states: dict[Path, os.stat_result] = {}
        for entry in self._entries:
            with suppress(FileNotFoundError):
                states[self._folder / entry.file] = (self._folder / entry.file).stat()
        total = sum(state.st_size for state in states.values())
        for path in sorted(states, key=lambda path: states[path].st_mtime):
            if total + needed <= self._room:
                break
            if path.name not in planned:
                path.unlink(missing_ok=True)
                total -= states[path].st_size


def fetch_set(remote: RemoteFolder, cache: Path) -> tuple[Path, Manifest]:
    """Manifest and indexes of a set from elsewhere, in a folder below `cache` that is named after the manifest's hash.

    A set that was written anew gets another folder. Raises UserError for whatever cannot be fetched, and for a cache
    that another user owns.
    """
    content = remote.read_manifest()
    folder = cache / hashlib.sha256(content).hexdigest()[:16]
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise UserError(f"the folder for copies '{folder}' belongs to another user; name one with --data.cache")
        with one_at_a_time(folder / f".{MANIFEST_NAME}.lock", threading.Event()):
            write_whole(folder / MANIFEST_NAME, content)
            manifest = Manifest.load(folder)
            with ThreadPoolExecutor(8, thread_name_prefix="index-copy") as threads:
                list(threads.map(lambda entry: _fetch_index(remote, folder, entry), manifest.shards))
    except OSError as error:
        raise UserError(
            f"the folder for copies '{folder}' cannot be used ({error.strerror}); name another with --data.cache"
        ) from error
    return folder, manifest


def _fetch_index(remote: RemoteFolder, folder: Path, entry: ShardEntry) -> None:
    path = folder / entry.index_file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.index_sha256:
        remote.copy(entry.index_file, path, None, entry.index_sha256, threading.Event())


@contextmanager
def one_at_a_time(path: Path, stop: threading.Event) -> Iterator[None]:
    """Hold the lock file `path` against all threads and processes of this machine.

    Raises UserError if `stop` is set before it is had.
    """
    with path.open("w") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if stop.wait(0.05):
                raise UserError(f"'{path}' was not waited for: the reading ended.")
        yield
