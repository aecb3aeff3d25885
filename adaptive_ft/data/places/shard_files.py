"""Where the tar files of a shard set are: in a folder, or copied from elsewhere before they are read.

A stream tells in plan order which shards come next (`ahead`), and readers read from them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.places.open_files import OpenFiles
from adaptive_ft.errors import UserError

_MOST_OPEN = 128  # well below the usual limit of 1024 open files


class ShardFiles(Protocol):
    """The tar files of a set, by number; shared by all threads of one stream."""

    @property
    def address(self) -> str:
        """How messages call the set."""

    def opened(self) -> "ShardFiles":
        """The same files for another stream: what one plans, halts or closes is nothing to the other."""

    def name(self, shard: int) -> str:
        """How messages call a shard."""

    def size(self, shard: int) -> int:
        """Bytes of a shard as it is read, which are fewer than the manifest says where it was cut."""

    def read_into(self, views: Sequence[memoryview], shard: int, offset: int) -> int:
        """Fill `views` one after the other with a shard's bytes from `offset` on; the number of bytes that were there.

        Raises UserError when there is no such file, OSError when it cannot be read.
        """

    def generation(self, shard: int) -> int:
        """Which copy of a shard a read that begins now comes from, or a newer one: counted from 0."""

    def renew(self, shard: int, generation: int) -> bool:
        """Whether another copy than `generation` is read from now on: a new one, or one that somebody else asked for.

        The file is opened again in any case.
        """

    def ahead(self, shards: Sequence[int]) -> None:
        """What will be read next, in that order; returns at once."""

    def halt(self) -> None:
        """Let nobody wait for a file any longer: whatever is being fetched fails, until `close`."""

    def close(self) -> None:
        """Close all files and give up what `ahead` has begun; what is read afterwards is opened again."""


class LocalFiles:
    """Shards in a folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.address = str(folder)
        self._folder, self._manifest = folder, manifest
        self._paths = [folder / entry.file for entry in manifest.shards]
        self._files = OpenFiles(self._open, _MOST_OPEN)

    def opened(self) -> "LocalFiles":
        """The same paths."""
        return LocalFiles(self._folder, self._manifest)

    def name(self, shard: int) -> str:
        """The path."""
        return str(self._paths[shard])

    def size(self, shard: int) -> int:
        """That of the file."""
        return self._paths[shard].stat().st_size

    def read_into(self, views: Sequence[memoryview], shard: int, offset: int) -> int:
        """Fill `views` from the file."""
        return self._files.read_into(views, shard, offset)

    def generation(self, shard: int) -> int:
        """0: there is one file only."""
        return 0

    def renew(self, shard: int, generation: int) -> bool:
        """There is no other file; the one is opened again."""
        self._files.let_go(shard)
        return False

    def ahead(self, shards: Sequence[int]) -> None:
        """Nothing: they are there."""

    def halt(self) -> None:
        """Nothing: nobody waits."""

    def close(self) -> None:
        """Close all files."""
        self._files.keep(())

    def _open(self, shard: int) -> int:
        try:
            return os.open(self._paths[shard], os.O_RDONLY)
        except OSError as error:
            raise UserError(f"shard {self._paths[shard]} cannot be opened: {error.strerror}") from None
