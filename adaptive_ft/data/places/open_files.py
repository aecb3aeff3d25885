"""Files of a shard set that are kept open for positioned reads, by several threads at once."""

import os
import threading
from collections.abc import Callable, Container, Sequence


class OpenFiles:
    """The `most` files that were opened last, opened by `open_file` when they are asked for.

    A file that is let go of closes with its last reader.
    """

    def __init__(self, open_file: Callable[[int], int], most: int) -> None:
        self._open_file, self._most = open_file, most
        self._files: dict[int, _OpenFile] = {}
        self._lock = threading.Lock()

    def read_into(self, views: Sequence[memoryview], number: int, offset: int) -> int:
        """Fill `views` one after the other from file `number`, from `offset` on; the number of bytes that were there.

        Only opening takes the lock: streams go from file to file in plan order, so those opened last are those read.
        """
        file = self._files.get(number)
        if file is None:
            file = _OpenFile(self._open_file(number))  # outside of the lock: opening may take a copy's time
            with self._lock:
                self._files[number] = file
                while len(self._files) > self._most:
                    del self._files[next(iter(self._files))]
        return os.preadv(file.descriptor, views, offset)

    def let_go(self, number: int) -> None:
        """Close one file, if it is open; the next read opens it again."""
        with self._lock:
            self._files.pop(number, None)

    def keep(self, numbers: Container[int]) -> None:
        """Close all others."""
        with self._lock:
            for number in [number for number in self._files if number not in numbers]:
                del self._files[number]


class _OpenFile:
    """A descriptor that closes when nobody refers to it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
