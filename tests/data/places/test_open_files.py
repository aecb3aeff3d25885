"""Files that stay open: nobody reads what was let go of."""

import os
from pathlib import Path

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
