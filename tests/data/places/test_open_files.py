"""Files that stay open: nobody reads what was let go of."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from adaptive_ft.data.places.open_files import OpenFiles


def test_a_file_that_is_let_go_of_while_it_is_being_opened_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    opened = []

    def open_file(number: int) -> int:
        opened.append(number)
        descriptor = os.open(path, os.O_RDONLY)
        if len(opened) == 1:
            path.unlink()
            path.write_bytes(b"new")
            files.let_go(number)
        return descriptor

    files, content = OpenFiles(open_file, most=2), bytearray(3)
    for _ in range(2):
        assert files.read_into([memoryview(content)], 5, 0) == 3
        assert content == b"new"
    assert opened == [5, 5]


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_a_read_that_gives_less_than_there_is_goes_on(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network file systems: at most `most` bytes a call, wherever the parts of the memory end."""
    path, preadv, calls = tmp_path / "file", os.preadv, []
    path.write_bytes(b"..abcdefgh")

    def short(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        calls.append(offset)
        content = bytearray(most)
        found = preadv(descriptor, [memoryview(content)[: sum(map(len, views))]], offset)
        for view in views:
            view[:], content = content[: len(view)].ljust(len(view), b"?"), content[len(view) :]
        return found

    monkeypatch.setattr(os, "preadv", short)
    files = OpenFiles(lambda _: os.open(path, os.O_RDONLY), most=2)
    parts = [bytearray(size) for size in (3, 0, 4)]
    assert files.read_into([memoryview(part) for part in parts], 0, 2) == 7
    assert b"".join(parts) == b"abcdefg"
    assert len(calls) == -(-7 // most)
    assert files.read_into([memoryview(bytearray(9))], 0, 2) == 8, "the file ends"
