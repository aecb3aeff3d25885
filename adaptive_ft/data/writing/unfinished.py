"""Where a folder grows until it is whole: `<folder>.unfinished` beside it, renamed at the end."""

import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import left_by_kill_pattern, write_whole

logger = logging.getLogger(__name__)

PLAN = "plan.json"
_HALF_WRITTEN = re.compile(left_by_kill_pattern(".+"))


def check_free(folder: Path) -> None:
    """Refuse to write to `folder` unless it is new or empty; commands ask before they read anything.

    Raises:
        UserError: it is a file, or holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "is not empty" if folder.is_dir() else "is a file"
        raise UserError(f"'{folder}' {found}; give a new or empty folder, or remove it first")


def begin_beside(folder: Path, ours: re.Pattern[str]) -> Path:
    """A new, empty `<folder>.unfinished`; what an interrupted writer left there goes if every file in it is of `ours`.

    `ours` matches the path of a file below that folder, as "shard-00000.tar". `folder` must be resolved: a link to an
    empty folder is fine, but cannot be the target of a rename.

    Raises:
        UserError: `folder` is one that no rename can replace, or the unfinished one holds a file of somebody else.
    """
    unfinished = _ours_beside(folder, ours)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    _make(unfinished)
    return unfinished


@contextmanager
def growing_beside(folder: Path, ours: re.Pattern[str], plan: dict[str, Any] | None) -> Iterator[Path]:
    """`<folder>.unfinished`, for this program alone: as one with the same plan left it, else empty.

    A plan, of what JSON can tell, is what the content follows from; it lies there as plan.json. None begins anew.

    Raises:
        UserError: as begin_beside; another program on this machine is writing there.
    """
    unfinished = _ours_beside(folder, ours)
    _make(unfinished)
    descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        _lock(descriptor, unfinished)
        content = None if plan is None else json.dumps(plan, ensure_ascii=False, indent=1) + "\n"
        if content is None or not _reads(unfinished / PLAN, content):
            _empty(unfinished)
            if content is not None:
                write_whole(unfinished / PLAN, content)
        else:
            _sweep(unfinished)
        yield unfinished
    finally:
        os.close(descriptor)


def _make(unfinished: Path) -> None:
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{unfinished}' cannot be made: {error.strerror}; name another folder.") from None


def _lock(descriptor: int, unfinished: Path) -> None:
    """Held until the descriptor is closed, also by a kill; file systems without locks go without."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another program is writing to '{unfinished}'; let it finish or end it first.") from None
    except OSError:
        logger.debug("No locks at '%s'.", unfinished)


def _reads(path: Path, content: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == content
    except (OSError, UnicodeDecodeError):
        return False


def _empty(unfinished: Path) -> None:
    found = list(unfinished.iterdir())
    if found:
        logger.warning("'%s' was begun by another command, or from other files: it begins anew.", unfinished)
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sweep(unfinished: Path) -> None:
    """Remove files that a kill left half written: what is gone on with would carry them along."""
    for path in unfinished.rglob("*"):
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink()


def _ours_beside(folder: Path, ours: re.Pattern[str]) -> Path:
    """`<folder>.unfinished`, there or not; UserError unless all in it is of `ours`."""
    if folder in (Path.cwd(), Path(folder.anchor)):
        raise UserError(f"'{folder}' cannot be made anew while the program runs in it; name a new folder.")
    unfinished = _beside(folder)
    inside = [path.relative_to(unfinished).as_posix() for path in sorted(unfinished.rglob("*")) if not path.is_dir()]
    foreign = [unfinished.name] if unfinished.is_file() else [name for name in inside if not ours.fullmatch(name)]
    if foreign:
        raise UserError(f"'{unfinished}' holds '{foreign[0]}', which no interrupted writer left there; move it away.")
    return unfinished


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.unfinished")
