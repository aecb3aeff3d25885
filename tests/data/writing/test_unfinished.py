"""The folder in which another one grows: begun anew over an interrupted writer's files, never over anybody else's."""

import re
from pathlib import Path

import pytest

from adaptive_ft.data.writing.unfinished import begin_beside, growing_beside
from adaptive_ft.errors import UserError

OURS = re.compile(r"part-\d|deep/part-\d")


def test_what_an_interrupted_writer_left_goes(tmp_path: Path) -> None:
    """Also in folders below, and also when there is nothing yet."""
    for _ in range(2):
        unfinished = begin_beside(tmp_path / "set", OURS)
        assert unfinished == tmp_path / "set.unfinished"
        assert list(unfinished.iterdir()) == []
        (unfinished / "deep").mkdir()
        (unfinished / "deep/part-1").touch()


@pytest.mark.parametrize("foreign", ["notes.txt", "deep/notes.txt", "other/part-1"])
def test_what_is_not_ours_stays(foreign: str, tmp_path: Path) -> None:
    """One file of somebody else, however deep, keeps the whole folder."""
    kept = [tmp_path / "set.unfinished" / name for name in ("part-1", foreign)]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(UserError, match=rf"set\.unfinished' holds '{foreign}', .* move it away"):
        begin_beside(tmp_path / "set", OURS)
    assert all(path.exists() for path in kept)


def test_a_file_of_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / "set.unfinished").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'set\.unfinished'"):
        begin_beside(tmp_path / "set", OURS)


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"'.*notes\.txt/set\.unfinished' cannot be made: Not a directory"):
        begin_beside(tmp_path / "notes.txt" / "set", OURS)


def test_the_folder_we_stand_in_cannot_be_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename over it would leave the shell in a folder that is gone."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path("/")):
        with pytest.raises(UserError, match="name a new folder"):
            begin_beside(folder, OURS)
    assert not tmp_path.with_name(f"{tmp_path.name}.unfinished").exists()


def test_what_has_the_same_plan_is_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another plan, or none, begins anew, and says so."""
    ours = re.compile(r"part-\d|plan\.json")
    for plan, kept in (({"a": 1}, False), ({"a": 1}, True), ({"a": 2}, False), (None, False)):
        caplog.clear()
        with growing_beside(tmp_path / "set", ours, plan) as unfinished:
            assert (unfinished / "part-1").exists() == kept
            assert ("it begins anew" in caplog.text) == (plan not in ({"a": 1},))
            (unfinished / "part-1").touch()


def test_one_program_at_a_time(tmp_path: Path) -> None:
    with (
        growing_beside(tmp_path / "set", OURS, None),
        pytest.raises(UserError, match="another program is writing to"),
        growing_beside(tmp_path / "set", OURS, None),
    ):
        pass
    with growing_beside(tmp_path / "set", OURS, None) as unfinished:
        assert unfinished.is_dir()
