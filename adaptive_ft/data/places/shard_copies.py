"""Copies of shards from elsewhere, on a disk of this machine: shared by all its processes, and removed where they would
take more than their room.
"""

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry
from adaptive_ft.data.format.shard_index import load_index
from adaptive_ft.data.format.tokenizer_files import TOKENIZER, check_tokenizer
from adaptive_ft.data.places.remote import RemoteFolder
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import left_by_kill_pattern, write_whole


class ShardCopies:
    """The copies of one set in `folder`, for all streams of this process that read it.

    Those that a stream of this process plans to read are never removed; of the others the one that was opened least
    recently goes first. What is being copied at the moment may pass the room.
    """

    def __init__(self, remote: RemoteFolder, folder: Path, manifest: Manifest, room: int) -> None:
        self.remote = remote
        self._folder, self._entries, self._room = folder, manifest.shards, room
        self._plans: WeakKeyDictionary[object, frozenset[int]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def path(self, shard: int) -> Path:
        """Where the copy lies, or will lie."""
        return self._folder / self._entries[shard].file

    def size(self, shard: int) -> int:
        """Bytes of a whole copy."""
        return self._entries[shard].bytes

    def origin(self, shard: int) -> str:
        """The address it is copied from."""
        return self.remote.url(self._entries[shard].file)

    def plan(self, stream: object, shards: Iterable[int]) -> None:
        """Take note of all that `stream` is going to read; it is forgotten with the stream."""
        with self._lock:
            self._plans[stream] = frozenset(shards)

    def open(self, shard: int, stop: threading.Event) -> int:
        """A descriptor of the copy, which is made if it is not there or has another size than it should have.

        Raises UserError when it cannot be copied, or `stop` is set before it is.
        """
        path = self.path(shard)
        while True:
            # Another process may make room between the copying and the opening; an open file stays readable.
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                if os.fstat(descriptor).st_size == self._entries[shard].bytes:
                    os.utime(descriptor)
                    return descriptor
                os.close(descriptor)
                path.unlink(missing_ok=True)
            self.make(shard, stop)

    def make(self, shard: int, stop: threading.Event) -> None:
        """Copy a shard, if no other thread or process has done so by its turn; raises what `open` raises."""
        entry, path = self._entries[shard], self.path(shard)
        with one_at_a_time(self._folder / f".{entry.file}.lock", stop):
            half_written = re.compile(left_by_kill_pattern(re.escape(entry.file)))
            for found in self._folder.iterdir():
                if half_written.fullmatch(found.name):
                    found.unlink(missing_ok=True)  # of a process that was killed: nobody else copies this shard now
            if not path.is_file():
                self._make_room(entry.bytes)
                self.remote.copy(entry.file, path, entry.bytes, entry.sha256, stop)

    def _make_room(self, needed: int) -> None:
        """Remove copies that no plan of this process names until `needed` bytes more are within the room."""
        with self._lock:
            planned = {self._entries[shard].file for plan in self._plans.values() for shard in plan}
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


def fetch_set(remote: RemoteFolder, cache: Path) -> tuple[Path, Manifest, list[NDArray[np.void]]]:
    """Manifest, indexes and tokenizer of a set from elsewhere, each read once, in a folder below `cache`.

    It is named after the manifest's hash: a set that was written anew gets another folder. Raises UserError for
    whatever cannot be fetched, and for a cache that another user owns.
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
                indexes = list(threads.map(lambda entry: _fetch_index(remote, folder, entry), manifest.shards))
            _fetch_tokenizer(remote, folder, manifest.tokenizer_files)
    except OSError as error:
        raise UserError(
            f"the folder for copies '{folder}' cannot be used ({error.strerror}); name another with --data.cache"
        ) from error
    return folder, manifest, indexes


def _fetch_index(remote: RemoteFolder, folder: Path, entry: ShardEntry) -> NDArray[np.void]:
    with suppress(UserError):  # it is not there, or not what the manifest promises
        return load_index(folder, entry)
    remote.copy(entry.index_file, folder / entry.index_file, None, entry.index_sha256, threading.Event())
    return load_index(folder, entry)


def _fetch_tokenizer(remote: RemoteFolder, folder: Path, files: Mapping[str, str]) -> None:
    with suppress(UserError):  # as in _fetch_index
        check_tokenizer(folder, files)
        return
    (folder / TOKENIZER).mkdir(exist_ok=True)
    for name, sha256 in files.items():
        remote.copy(f"{TOKENIZER}/{name}", folder / TOKENIZER / name, None, sha256, threading.Event())


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
