"""Files of a shard set that are kept open for positioned reads, by several threads at once."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Container


class OpenFiles:
    """The `most` files that were read last, opened by `open_file` when they are asked for.

    A file that is let go of closes with its last reader.
    """

    def __init__(self, open_file: Callable[[int], int], most: int) -> None:
        self._open_file, self._most = open_file, most
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, view: memoryview, number: int, offset: int) -> int:
        """Fill `view` from file `number`, from `offset` on; the number of bytes that were there."""
        with self._lock:
            file = self._files.pop(number, None)
        file = file or _OpenFile(self._open_file(number))  # outside of the lock: opening may take a copy's time
        with self._lock:
            self._files[number] = file
            while len(self._files) > self._most:
                self._files.popitem(last=False)
        return os.preadv(file.descriptor, [view], offset)

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
