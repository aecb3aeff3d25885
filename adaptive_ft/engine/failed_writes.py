"""A write that the disk refuses, told in one sentence: what could not be written, the system's reason, what to do.

Everything that a run writes goes through `told_as_failed`: a full disk, a quota, a file system that is gone or
read-only are nobody's fault in the program, and no traceback says what to do about them.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptive_ft.errors import UserError

# How those libraries tell of a failed write that raise no OSError: torch, safetensors, tokenizers.
TELLING = ("PytorchStreamWriter", "inline_container", "iostream error", "I/O error", "os error", "write failed")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FailedWrite(UserError):
    """Something of the run could not be written."""


def is_failed_write(error: Exception) -> bool:
    """Whether `error` says that a file could not be written: no room, a quota, a file system gone or read-only."""
    return isinstance(error, OSError) or tells_of_failed_write(str(error))


def tells_of_failed_write(text: str) -> bool:
    """Whether the words of an error, perhaps of another process, say that a file could not be written."""
    return any(word in text for word in (*TELLING, "No space left on device", "Disk quota exceeded"))


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
        raise failed_write(what, place, reason, getattr(error, "errno", None), consequence) from error


def failed_write(what: str, place: Path, reason: str, number: int | None = None, consequence: str = "") -> FailedWrite:
    """The error that says so. number: the system's, None where a library has told none: mostly there is no room."""
    remedy = "Make room there" if number is None or number in NO_ROOM else "When it can be written there again"
    return FailedWrite(
        f"{what} could not be written: {reason}{_room(place)}.{consequence} {remedy}, and start the run again with"
        " --resume auto."
    )


def _room(place: Path) -> str:
    """What is free on the file system of `place`, in words; nothing where that cannot be known."""
    try:
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
        return f" ({shutil.disk_usage(there).free / 2**20:.1f} MiB are free there)"
    except OSError:
        return ""
