"""Opening a source file, plain or gzip, told apart by its first bytes because names lie."""

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from adaptive_ft.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"


def open_source(path: Path, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> BinaryIO:
    """The file's bytes for reading, unpacked if it is gzip; UserError if it does not exist."""
    try:
        file = io.BufferedReader(path.open("rb", buffering=0), buffer_size)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from None
    if not file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
        return file
    file.close()
    return cast(BinaryIO, gzip.open(path))


def read_json(path: Path) -> Any:
    """The content of a JSON file, plain or gzip; UserError if it is damaged."""
    with open_source(path) as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
            raise UserError(f"'{path}' is not readable JSON ({error}); download it again") from None
