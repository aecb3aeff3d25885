"""Shards that lie elsewhere: files by name behind an address, copied whole and checked on the way.

    http://host/vqa/train             the name is appended; so with webdataset's other schemes (https, gs, hf, ...)
    pipe:ssh host cat vqa/train/{}    a command that is run, with the name for {}; the file is what it prints

webdataset's gopen opens them. A tar file that is streamed can end early without a word; one that was copied whole, with
the size and hash of the manifest, cannot.
"""

import hashlib
import json
import logging
import os
import re
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from webdataset import utils as webdataset_settings
from webdataset.gopen import Pipe, gopen, gopen_schemes

from adaptive_ft.data.format.manifest import MANIFEST_NAME
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import whole_file

logger = logging.getLogger(__name__)

SCHEMES = frozenset(gopen_schemes) - {"__default__"}
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
STALL_SECONDS = 60.0
_BLOCK = 1 << 20
_PIPE = "pipe:"
_Result = TypeVar("_Result")


def is_remote(address: str) -> bool:
    """Whether `address` begins with a scheme that is opened here; anything else is a folder."""
    return address.partition(":")[0] in SCHEMES and ":" in address


class Incomplete(OSError):
    """What came is not what the manifest promises."""


@dataclass(frozen=True)
class RemoteFolder:
    """A shard folder behind an address.

    Raises UserError for a pipe without a place for the name.
    """

    address: str

    def __post_init__(self) -> None:
        if self.address.startswith(_PIPE) and "{}" not in self.address:
            raise UserError(
                f"'{self.address}' has no {{}} where the name of a shard goes, as in 'pipe:cat folder/{{}}'."
            )

    def url(self, name: str) -> str:
        """The address of one file; in a command its name is quoted for the shell."""
        if "{}" not in self.address:
            return f"{self.address.rstrip('/')}/{name}"
        return self.address.replace("{}", shlex.quote(name) if self.address.startswith(_PIPE) else name)

    def read_manifest(self) -> bytes:
        """The bytes of manifest.json, which are JSON; UserError when they cannot be fetched in ATTEMPTS attempts.

        No hash tells whether all of it came; a part of a JSON object is none.
        """
        return self._attempts(MANIFEST_NAME, threading.Event(), self._read_manifest)

    def copy(self, name: str, path: Path, size: int | None, sha256: str, stop: threading.Event) -> None:
        """Put a whole file into `path`; `size` None is not compared. Gives up within a second once `stop` is set.

        Tries ATTEMPTS times, with pauses of PAUSE_SECONDS and twice that. Raises UserError with what was wrong at last.
        """
        self._attempts(name, stop, lambda: self._copy(name, path, size, sha256, stop))

    def _attempts(self, name: str, stop: threading.Event, fetch: Callable[[], _Result]) -> _Result:
        for attempt in range(ATTEMPTS):
            if stop.wait(attempt * PAUSE_SECONDS):
                raise UserError(f"'{self.url(name)}' was not copied: the reading ended.")
            try:
                return fetch()
            except OSError as error:
                reason = _reason(error)
                if not stop.is_set():  # else it is no fault of the transfer's
                    logger.warning("Copying '%s' failed: %s.", self.url(name), reason)
        raise UserError(f"'{self.url(name)}' cannot be copied, in {ATTEMPTS} attempts: {reason}.")

    def _read_manifest(self) -> bytes:
        content = b"".join(_blocks(self.url(MANIFEST_NAME), threading.Event()))
        try:
            json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Incomplete(
                f"{len(content)} bytes came, which are no valid JSON ({error}); if no more come the next time, copy it"
                " to that place again, or write the shards again"
            ) from None
        return content

    def _copy(self, name: str, path: Path, size: int | None, sha256: str, stop: threading.Event) -> None:
        found, digest = 0, hashlib.sha256()
        with whole_file(path) as temporary:
            with temporary.open("wb") as file:
                for block in _blocks(self.url(name), stop):
                    file.write(block)
                    digest.update(block)
                    found += len(block)
            if size is not None and found != size:
                raise Incomplete(f"{found} of {size} bytes came")
            if digest.hexdigest() != sha256:
                raise Incomplete(f"expected sha256 {sha256[:12]}, found {digest.hexdigest()[:12]}")


def _blocks(url: str, stop: threading.Event) -> Iterator[bytes]:
    """What comes from `url`; raises OSError where the transfer fails, stalls or is to stop."""
    stream = _open(url)
    process = getattr(stream, "proc", None)
    if process is None:  # a scheme that is no program: its reads cannot be interrupted
        with stream:
            while block := stream.read(_BLOCK):
                yield block
        return
    try:
        yield from _from_pipe(process.stdout.fileno(), stop)
        stream.wait_for_child()  # raises where the program failed
    finally:
        _end(process, url)


def _open(url: str) -> Any:
    """gopen, but a command leads a session of its own, by which all programs it has started can be ended."""
    if not url.startswith(_PIPE):
        return gopen(url, "rb")
    if webdataset_settings.enforce_security:
        raise UserError(f"'{url}' is not run: webdataset is told (WDS_SECURE) to run no commands.")
    return Pipe(url.removeprefix(_PIPE), mode="rb", shell=True, ignore_status=[141], start_new_session=True)


def _end(process: subprocess.Popen[bytes], url: str) -> None:
    if process.returncode is None:  # not waited for: its number is still its own
        with suppress(ProcessLookupError):
            if url.startswith(_PIPE):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
    assert process.stdout is not None
    process.stdout.close()
    process.wait()


def _from_pipe(pipe: int, stop: threading.Event) -> Iterator[bytes]:
    silent_since = time.monotonic()
    poll = select.poll()  # select.select takes no descriptor from 1024 on
    poll.register(pipe, select.POLLIN)
    while True:
        ready = poll.poll(500)
        if stop.is_set():
            raise Incomplete("the reading ended")
        if ready:
            block = os.read(pipe, _BLOCK)
            if not block:
                return
            yield block
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > STALL_SECONDS:
            raise Incomplete(f"nothing came for {STALL_SECONDS} seconds")


def _reason(error: OSError) -> str:
    """What a person can use of an error: gopen tells a failed command as the arguments of its process."""
    failed = re.search(r"exit (-?\d+) \(read\)", str(error))
    if failed is None:
        return str(error)
    program = " of curl (22: the server refuses it, 6 and 7: no such server)" if "['curl'" in str(error) else ""
    return f"its transfer ended with exit code {failed[1]}{program}"
