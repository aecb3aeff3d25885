"""A write that the disk refuses, told in words: what could not be written, the system's reason, what to do.

Everything that a run writes goes through `told_as_failed`: a full disk, a quota, a file system that is gone or
read-only are nobody's fault in the program, and no traceback says what to do about them. Any other error of the
system, a file that is not there or a connection that is refused, is a fault of the program and keeps its traceback.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptive_ft.errors import UserError

# How those libraries tell of a failed write that raise no OSError: torch, safetensors, tokenizers.
TELLING = ("PytorchStreamWriter", "inline_container", "iostream error", "I/O error", "write failed")
# Those written in Rust tell the system's number.
NUMBER = re.compile(r"\(os error (\d+)\)")
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The file system is gone, read-only or closed to this person, or the path is none that it could have.
REFUSED = {errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENOTCONN}
NO_PATH = {errno.ENOTDIR, errno.ENAMETOOLONG}
FAILED = NO_ROOM | REFUSED | NO_PATH


class FailedWrite(UserError):
    """Something of the run could not be written."""


def is_failed_write(error: Exception) -> bool:
    """Whether `error` says that a file could not be written: no room, a quota, a file system gone or read-only."""
    number = _number(error)
    return tells_of_failed_write(str(error)) if number is None else number in FAILED


def tells_of_failed_write(text: str) -> bool:
    """Whether the words of an error, perhaps of another process, say that a file could not be written."""
    numbers = {int(number) for number in NUMBER.findall(text)}
    words = (*TELLING, "No space left on device", "Disk quota exceeded")
    return bool(numbers & FAILED) if numbers else any(word in text for word in words)


def _number(error: Exception) -> int | None:
    """The system's number of an error, None where nobody tells it."""
    told = NUMBER.search(str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


@contextmanager
def told_as_failed(what: str, place: Path, consequence: str = "") -> Iterator[None]:
    """Inside, a failed write is raised as `FailedWrite` with the reason of the system; all else as it is.

    what: the file or the folder, in words that begin the sentence; place: where it lies or will lie, to see what room
    there is; consequence: a sentence about what stays, with a blank before it.

    Raises:
        FailedWrite: a write inside has failed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_failed_write(error):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise failed_write(what, place, reason, _number(error), consequence) from error


def failed_write(what: str, place: Path, reason: str, number: int | None = None, consequence: str = "") -> FailedWrite:
    """The error that says so. number: the system's, None where a library has told none: mostly there is no room."""
    if number is None or number in NO_ROOM:
        room, remedy = _room(place), "Make room there, and start the run again with --resume auto."
    else:
        room, remedy = "", "When it can be written there, start the run again with --resume auto."
    return FailedWrite(f"{what} could not be written: {reason}{room}.{consequence} {remedy}")


def _room(place: Path) -> str:
    """What is free on the file system of `place`, in words; nothing where that cannot be known."""
    try:
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
        return f" ({shutil.disk_usage(there).free / 2**20:.1f} MiB are free there)"
    except OSError:
        return ""
