"""Where the tar files of a shard set are: in a folder, or copied from elsewhere before they are read.

A stream tells in plan order which shards come next (`ahead`), and a reader opens them.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from adaptive_ft.data.manifest import MANIFEST_NAME, Manifest, ShardEntry
from adaptive_ft.data.remote import RemoteFolder
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

COPIES_AT_ONCE = 2


class ShardFiles(Protocol):
    """The tar files of a set, by number."""

    @property
    def address(self) -> str:
        """How messages call the set."""

    def name(self, shard: int) -> str:
        """How messages call a shard."""

    def open(self, shard: int) -> int:
        """A descriptor to read a shard with, which the caller closes; UserError when there is none."""

    def ahead(self, shards: Sequence[int]) -> None:
        """What will be read next, in that order; returns at once."""

    def close(self) -> None:
        """Give up what `ahead` has begun."""


class LocalFiles:
    """Shards in a folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.address = str(folder)
        self._paths = [folder / entry.file for entry in manifest.shards]

    def name(self, shard: int) -> str:
        """The path."""
        return str(self._paths[shard])

    def open(self, shard: int) -> int:
        """A descriptor of the file."""
        try:
            return os.open(self._paths[shard], os.O_RDONLY)
        except OSError as error:
            raise UserError(f"shard {self._paths[shard]} cannot be opened: {error.strerror}") from None

    def ahead(self, shards: Sequence[int]) -> None:
        """Nothing: they are there."""

    def close(self) -> None:
        """Nothing."""


class CopiedFiles:
    """Shards from elsewhere, copied to `folder` when they are needed and kept there as long as there is room.

    All processes of a machine share the copies. Those this process plans to read are never removed; of the others the
    one that was opened least recently goes first. What is being copied at the moment may pass the room.
    """

    def __init__(self, remote: RemoteFolder, folder: Path, manifest: Manifest, room: int) -> None:
        self._remote, self._folder, self._entries, self._room = remote, folder, manifest.shards, room
        self.address = remote.address
        self._plan: tuple[int, ...] = ()
        self._copies: ThreadPoolExecutor | None = None
        self._under_way: dict[int, Future[None]] = {}

    def name(self, shard: int) -> str:
        """The address it comes from."""
        return self._remote.url(self._entries[shard].file)

    def open(self, shard: int) -> int:
        """A descriptor of the copy, made now if it is not there."""
        path = self._path(shard)
        while True:
            # Another process may make room between the copying and the opening; an open file stays readable.
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                os.utime(path)
                return descriptor
            self._copy(shard)

    def ahead(self, shards: Sequence[int]) -> None:
        """Copy these in the background, in this order; a copy that fails is tried again by whoever opens the shard."""
        if tuple(shards) == self._plan:
            return
        self._plan = tuple(shards)
        self._under_way = {shard: copy for shard, copy in self._under_way.items() if not copy.done()}
        for shard in shards:
            if shard not in self._under_way and not self._path(shard).is_file():
                self._copies = self._copies or ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="shard-copy")
                self._under_way[shard] = self._copies.submit(self._copy, shard)

    def close(self) -> None:
        """Drop the copies that have not begun and wait for those that have."""
        if self._copies is not None:
            self._copies.shutdown(cancel_futures=True)
        self._copies, self._under_way, self._plan = None, {}, ()

    def _path(self, shard: int) -> Path:
        return self._folder / self._entries[shard].file

    def _copy(self, shard: int) -> None:
        entry = self._entries[shard]
        with one_at_a_time(self._folder / f".{entry.file}.lock"):
            if not self._path(shard).is_file():
                self._make_room(entry.bytes)
                self._remote.copy(entry.file, self._path(shard), entry.bytes, entry.sha256)

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

    A set that was written anew gets another folder. Raises UserError for whatever cannot be fetched.
    """
    content = remote.read_manifest()
    folder = cache / hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / f".{MANIFEST_NAME}.lock"):
        write_whole(folder / MANIFEST_NAME, content)
        manifest = Manifest.load(folder)

        def fetch(entry: ShardEntry) -> None:
            if not (folder / entry.index_file).is_file():
                remote.copy(entry.index_file, folder / entry.index_file, None, entry.index_sha256)

        with ThreadPoolExecutor(8, thread_name_prefix="index-copy") as threads:
            list(threads.map(fetch, manifest.shards))
    return folder, manifest


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against all threads and processes of this machine."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
