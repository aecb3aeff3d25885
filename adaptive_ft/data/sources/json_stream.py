"""The entries of a large JSON file, one after the other: a file of questions is one list, which takes several times its
size in memory when it is parsed as a whole.

Each entry is parsed by Python's own json, so that what it refuses and accepts does not depend on how a file is read.
"""

import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from adaptive_ft.data.sources.opening import open_source
from adaptive_ft.errors import UserError

_CHUNK = 1 << 18  # characters
_LARGEST = 1 << 26  # characters of one entry; what is longer is no entry but damage, and must not fill the memory
_SPACE = " \t\r\n"
_AFTER_VALUE = frozenset(_SPACE + ",:]}")


def stream_list(path: Path, wanted: str, key: str | None = None) -> Iterator[Any]:
    """The entries of the list that the file is, or that its object has under `key`; plain or gzip.

    Raises UserError for damage, where it is met, and for a file without that list, which must be `wanted` instead.
    """
    with _scanner(path) as scanner:
        if scanner.peek() == "[":
            yield from scanner.entries()
        else:
            found = False
            for name in scanner.names_if_object():
                if name == key and scanner.peek() == "[":
                    found = True
                    yield from scanner.entries()
                else:
                    scanner.skip()
            if not found:
                raise UserError(f"{path} has no list of {key or 'questions'}; give {wanted}")
        scanner.end()


def stream_object(path: Path, wanted: str) -> Iterator[tuple[str, Any]]:
    """The names and values of the object that the file is; plain or gzip.

    Raises UserError for damage, where it is met, and for a file that is none and must be `wanted` instead.
    """
    with _scanner(path) as scanner:
        found = scanner.peek() == "{"
        for name in scanner.names_if_object():
            yield name, scanner.value()
        if not found:
            raise UserError(f"{path} is not an object of {wanted}")
        scanner.end()


def find_value(path: Path, key: str) -> Any:
    """What the object that the file is has under `key`, None where it has nothing; UserError for damage."""
    with _scanner(path) as scanner:
        for name in scanner.names_if_object():
            if name == key:
                return scanner.value()
            scanner.skip()
    return None


@contextmanager
def _scanner(path: Path) -> Iterator["_Scanner"]:
    with open_source(path) as file:
        try:
            yield _Scanner(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        except UserError:
            raise  # names the place already
        except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
            raise UserError(f"'{path}' is not readable JSON ({error}); download it again") from None


class _Scanner:
    """A place in a JSON text, of which a chunk is in memory; ValueError for damage."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at, self._whole = file, "", 0, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space, which stays; empty at the end of the text."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._whole:
                return ""
            self._read()

    def value(self) -> Any:
        """The value that stands here."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if self._whole or len(self._text) - self._at > _LARGEST:
                    raise
            else:
                # A number may go on in the next chunk, and "-1.5e-7" be cut to "-1.5e" so far.
                if self._whole or self._text[end : end + 1] in _AFTER_VALUE or end - self._at > _LARGEST:
                    self._at = end
                    return value
            self._read()

    def entries(self) -> Iterator[Any]:
        """The entries of the list that stands here."""
        self._take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self._take(",")
                self._refuse("]")
        self._take("]")

    def names_if_object(self) -> Iterator[str]:
        """The names in the object that stands here; whoever asks for the next has taken the value of the last.

        Anything else that stands here is passed over, and has none.
        """
        if self.peek() != "{":
            self.skip()
            return
        self._take("{")
        while self.peek() != "}":
            if self.peek() != '"':
                raise self._expected("a name in quotes")
            name = self.value()
            self._take(":")
            yield name
            if self.peek() != "}":
                self._take(",")
                self._refuse("}")
        self._take("}")

    def skip(self) -> None:
        """Pass over the value that stands here, a list entry by entry."""
        if self.peek() == "[":
            for _ in self.entries():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Nothing but space may follow."""
        if self.peek():
            raise self._expected("the end")

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._expected(f"'{character}'")
        self._at += 1

    def _refuse(self, character: str) -> None:
        if self.peek() == character:
            raise self._expected("another entry")

    def _expected(self, what: str) -> ValueError:
        return ValueError(f"expected {what}, found '{self._text[self._at : self._at + 20]}'")

    def _read(self) -> None:
        """Read on: as much as is waiting already, so that a long value is tried again only a few times."""
        waiting = self._text[self._at :]
        more = self._file.read(max(_CHUNK, len(waiting)))
        self._text, self._at, self._whole = waiting + more, 0, not more
