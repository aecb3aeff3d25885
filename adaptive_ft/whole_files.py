"""Files that are there whole or not at all: written under another name, flushed, renamed; and read again."""

import csv
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptive_ft.errors import UserError


def no_check() -> None:
    """Nothing stands in the way of a file."""


def write_whole(path: Path, content: str | bytes, check: Callable[[], None] = no_check) -> None:
    """Put `content` (text as UTF-8) into `path` in one step: a reader, or a kill, finds the old file or the new one.

    `check` is called when all has been written, at the last moment before the step, and prevents it by raising.
    """
    with whole_file(path, check) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a line of names first; every row has a value by each of them."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds, as `write_whole` has left it; None where there is no file.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is damaged: it holds no JSON object.")
    return content


def left_by_kill_pattern(name: str) -> str:
    """The regular expression of the temporary files of `name`, itself one: what a kill leaves beside a file."""
    return rf"\.({name})\.[0-9a-f]{{32}}\.tmp"


@contextmanager
def whole_file(path: Path, check: Callable[[], None] = no_check) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there when the writing has succeeded."""
    # Not the process's number: another machine that writes to the same file system may have one of the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        flush(temporary)
        check()
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the file or the folder `path` is on the disk; a folder's part is the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
