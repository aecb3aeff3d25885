"""Files of a shard set that are kept open for positioned reads, by several threads at once."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path


class OpenFiles:
    """The `most` files that were opened last, opened by `open_file` when they are asked for.

    A file that is let go of closes with its last reader.
    """

    def __init__(self, open_file: Callable[[int], int], most: int) -> None:
        self._open_file, self._most = open_file, most
        self._files: dict[int, _OpenFile] = {}
        self._times_let_go: Counter[int] = Counter()
        self._lock = threading.Lock()

    def read_into(self, views: Sequence[memoryview], number: int, offset: int) -> int:
        """Fill `views` one after the other from file `number`, from `offset` on; the number of bytes that were there.

        Only opening takes the lock: streams go from file to file in plan order, so those opened last are those read.
        """
        file = self._files.get(number) or self._open(number)
        found, wanted = os.preadv(file.descriptor, views, offset), sum(map(len, views))
        # A network file system may give less than there is; 0 bytes are the end.
        while found < wanted and (more := os.preadv(file.descriptor, _behind(views, found), offset + found)):
            found += more
        return found

    def let_go(self, number: int) -> None:
        """Close one file; every read that begins afterwards, also one that is opening it now, opens it again."""
        with self._lock:
            self._times_let_go[number] += 1
            self._files.pop(number, None)

    def is_replaced(self, number: int, path: Path) -> bool:
        """Whether the file is open, and `path` names another one by now."""
        file = self._files.get(number)
        if file is None:
            return False
        try:
            return not os.path.samestat(os.fstat(file.descriptor), path.stat())
        except FileNotFoundError:
            return False

    def keep(self, numbers: Container[int]) -> None:
        """Close all others."""
        with self._lock:
            for number in [number for number in self._files if number not in numbers]:
                del self._files[number]

    def _open(self, number: int) -> "_OpenFile":
        while True:
            times_before = self._times_let_go[number]
            file = _OpenFile(self._open_file(number))  # outside of the lock: opening may take a copy's time
            with self._lock:
                if self._times_let_go[number] != times_before:
                    continue  # what was opened may be what was to be let go of
                self._files[number] = file
                while len(self._files) > self._most:
                    del self._files[next(iter(self._files))]
                return file


def _behind(views: Sequence[memoryview], found: int) -> list[memoryview]:
    """What of `views` lies behind their first `found` bytes."""
    rest = []
    for view in views:
        rest.append(view[found:])
        found = max(0, found - len(view))
    return rest


class _OpenFile:
    """A descriptor that closes when nobody refers to it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
