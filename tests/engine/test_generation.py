"""The fence around a run folder: only the newest start may write, and a start that was overtaken says so."""

import re
import threading
from pathlib import Path

import pytest

from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.generation import TakenOver, next_generation, taken_over_told
from adaptive_ft.errors import UserError


def test_each_start_has_the_next_number(tmp_path: Path) -> None:
    """1, 2, 3; the newest one passes the fence."""
    starts = [next_generation(tmp_path) for _ in range(3)]
    assert [start.number for start in starts] == [1, 2, 3]
    starts[-1].check()


def test_an_earlier_start_is_stopped_with_both_numbers(tmp_path: Path) -> None:
    """One sentence, and exit code 1 where the program ends with it."""
    earlier = next_generation(tmp_path)
    next_generation(tmp_path)
    with pytest.raises(
        TakenOver, match=r"taken over by generation 2, this process is generation 1: .* cut off"
    ) as told:
        earlier.check()
    assert told.value.exit_code == 1


def test_two_starts_with_one_number_are_told_apart(tmp_path: Path) -> None:
    """Both have read 0 and write 1: the one that wrote last has the folder."""
    first = next_generation(tmp_path)
    (tmp_path / "generation").unlink()
    second = next_generation(tmp_path)
    assert first.number == second.number == 1
    second.check()
    with pytest.raises(TakenOver):
        first.check()


def test_a_folder_that_was_removed_is_nobodys(tmp_path: Path) -> None:
    """Nothing is written into what a person has cleared away."""
    start = next_generation(tmp_path)
    (tmp_path / "generation").unlink()
    with pytest.raises(TakenOver, match="has lost its generation file"):
        start.check()


def test_a_spoilt_file_is_told(tmp_path: Path) -> None:
    """Its path, and what to do."""
    (tmp_path / "generation").write_text("three")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "generation"))):
        next_generation(tmp_path)


def test_a_file_system_that_fails_for_a_moment_ends_no_run(tmp_path: Path) -> None:
    """/proc/self/mem gives a real EIO until the file is there again."""
    start = next_generation(tmp_path)
    fence = (tmp_path / "generation").rename(tmp_path / "kept")
    (tmp_path / "generation").symlink_to("/proc/self/mem")
    well_again = threading.Timer(0.3, fence.replace, (tmp_path / "generation",))
    well_again.start()
    start.check()
    well_again.join()
    next_generation(tmp_path)
    with pytest.raises(TakenOver):
        start.check()


def test_a_failure_behind_the_fence_is_told_as_being_overtaken(tmp_path: Path) -> None:
    """The peers' connections break when they stop; without a newer start the failure is what it is."""
    start = next_generation(tmp_path)
    with pytest.raises(RuntimeError, match="connection closed"), taken_over_told(start):
        raise RuntimeError("connection closed")
    next_generation(tmp_path)
    with pytest.raises(TakenOver), taken_over_told(start):
        raise RuntimeError("connection closed")


def test_an_overtaken_start_writes_no_checkpoint(tmp_path: Path) -> None:
    """In the midst of a save its files are in a folder of its own; it can neither finish, point, prune nor forget."""
    old = CheckpointFolder(tmp_path / "checkpoints", next_generation(tmp_path))
    old.begin("step_000001")
    old.finish("step_000001", {"step": 1})
    stranded = old.begin("step_000002")
    new = CheckpointFolder(tmp_path / "checkpoints", next_generation(tmp_path))
    assert new.begin("step_000002") != stranded
    new.finish("step_000002", {"step": 2})
    stranded.mkdir(exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    for write in (
        lambda: old.begin("step_000003"),
        lambda: old.finish("step_000002", {"step": 2}),
        lambda: old.point("latest", "step_000001"),
        lambda: old.remove("step_000001"),
        lambda: old.forget_after("step_000001"),
        old.abandon,
        old.check,
    ):
        with pytest.raises(TakenOver):
            write()
    written = {path for path in sorted(tmp_path.rglob("*")) if path not in before}
    assert written == {stranded / "manifest.json"}, "only in its own folder"
    assert new.newest_whole() == ("step_000002", [])
