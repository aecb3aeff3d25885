"""A file is there whole or not at all, whatever interrupts the writing."""

from pathlib import Path

import pytest

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import read_json_object, whole_file, write_csv, write_whole


@pytest.mark.parametrize(("content", "stored"), [("müde\n", "müde\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_text_and_bytes_are_written(content: str | bytes, stored: bytes, tmp_path: Path) -> None:
    """Text as UTF-8, bytes as they are; what stood there is replaced and nothing temporary stays."""
    path = tmp_path / "file"
    path.write_text("old")
    write_whole(path, content)
    assert path.read_bytes() == stored
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    """A lone surrogate is no UTF-8."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """Half of the new content is never seen under the name."""
    path = tmp_path / "file"
    path.write_text("old")

    def write_and_break_off() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_number_on_two_machines_do_not_meet(tmp_path: Path) -> None:
    """A shared file system sees both: each has a temporary file of its own, whatever its process is called."""
    with whole_file(tmp_path / "file") as first, whole_file(tmp_path / "file") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """No folder is made behind the caller's back."""
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "absent/file", "text")


def test_a_check_that_raises_keeps_the_old_file(tmp_path: Path) -> None:
    """It is asked when the new content is on the disk beside it, and nothing of that stays."""
    path = tmp_path / "file"
    path.write_text("old")

    def refuse() -> None:
        (beside,) = tmp_path.glob(".file.*")
        assert beside.read_text() == "new"
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        write_whole(path, "new", refuse)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_is_written_with_its_names(tmp_path: Path) -> None:
    """Cells with commas are quoted; a row that breaks off the writing leaves nothing."""
    write_csv(tmp_path / "table.csv", ("name", "share"), [{"name": "a, b", "share": 0.5}])
    assert (tmp_path / "table.csv").read_bytes() == b'name,share\n"a, b",0.5\n'
    with pytest.raises(ValueError, match="other"):
        write_csv(tmp_path / "half.csv", ("name",), [{"name": "a"}, {"other": 1}])
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(("content", "told"), [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[1]", "no JSON object")])
def test_an_object_is_read_or_refused_by_its_name(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    assert read_json_object(path) is None
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"'{path}' is damaged: .*{told}"):
        read_json_object(path)
