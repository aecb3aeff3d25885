"""A checkpoint is whole or it is not there: manifest last, pointer atomic, damage found, older ones pruned."""

import os
from pathlib import Path

import pytest

from adaptive_ft.engine.checkpoint import BEST, LATEST, CheckpointFolder, sha256_of


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


def save(checkpoints: CheckpointFolder, step: int) -> str:
    """A whole checkpoint of two files, one in a folder."""
    tag = checkpoints.tag(step)
    fill(checkpoints, step)
    checkpoints.finish(tag, {"step": step, "world_size": 2})
    return tag


def fill(checkpoints: CheckpointFolder, step: int) -> str:
    """What stands on the disk just before a checkpoint is declared whole; the name of the folder it stands in."""
    place = checkpoints.begin(checkpoints.tag(step))
    (place / "adaptive").mkdir()
    (place / "optimizer.pt").write_bytes(b"numbers" * step)
    (place / "adaptive/weights").write_bytes(b"weights")
    return place.name


def test_a_finished_checkpoint_is_whole_and_newest(checkpoints: CheckpointFolder) -> None:
    """The manifest lists every file with size and hash beside the facts, and the pointer names the tag."""
    tag = save(checkpoints, 3)
    assert tag == "step_000003"
    assert checkpoints.faults(tag) == []
    assert checkpoints.newest_whole() == (tag, [])
    assert checkpoints.pointed(LATEST) == tag
    manifest = checkpoints.read_manifest(tag)
    assert (manifest["step"], manifest["world_size"]) == (3, 2)
    path = checkpoints.folder / tag / "optimizer.pt"
    assert manifest["files"]["optimizer.pt"] == {"bytes": 21, "sha256": sha256_of(path)}
    assert set(manifest["files"]) == {"optimizer.pt", "adaptive/weights"}


def test_nothing_saved_is_nothing_to_resume(checkpoints: CheckpointFolder) -> None:
    """No folder, no pointer, no error."""
    assert checkpoints.newest_whole() == (None, [])
    assert checkpoints.pointed(LATEST) is None


@pytest.mark.parametrize("content", [b"", b'{"step": 2, "fil', b'{"step": 2}', b"[]", b"\xff"])
def test_a_damaged_manifest_is_passed_over(content: bytes, checkpoints: CheckpointFolder) -> None:
    """As any other damage is: the checkpoint before it is taken."""
    whole, torn = save(checkpoints, 1), save(checkpoints, 2)
    (checkpoints.folder / torn / "manifest.json").write_bytes(content)
    sentence = "checkpoint step_000002 is passed over: its manifest.json is damaged."
    assert checkpoints.newest_whole() == (whole, [sentence])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../etc"])
def test_a_damaged_pointer_is_none(content: bytes, checkpoints: CheckpointFolder) -> None:
    """The newest whole checkpoint is found without it."""
    tag = save(checkpoints, 1)
    (checkpoints.folder / LATEST).write_bytes(content)
    assert checkpoints.pointed(LATEST) is None
    assert checkpoints.newest_whole() == (tag, [])


def test_what_an_interrupted_removal_left_is_removed_with_the_next(checkpoints: CheckpointFolder) -> None:
    """A kill between the manifest's removal and that of the large files would keep them for ever."""
    for step in (1, 2, 3):
        save(checkpoints, step)
    (checkpoints.folder / "step_000001/manifest.json").unlink()
    checkpoints.prune(2)
    assert sorted(path.name for path in checkpoints.folder.glob("step_*")) == ["step_000002", "step_000003"]


def test_an_interrupted_save_does_not_exist(checkpoints: CheckpointFolder) -> None:
    """It has no name of a checkpoint yet, the pointer was never moved to it, and the next save clears it away."""
    whole, torn = save(checkpoints, 1), fill(checkpoints, 2)
    assert checkpoints.pointed(LATEST) == whole
    assert checkpoints.newest_whole() == (whole, [])
    assert checkpoints.faults(checkpoints.tag(2)) == ["it has no manifest: the save was interrupted"]
    save(checkpoints, 3)
    assert not (checkpoints.folder / torn).exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("missing", "optimizer.pt is missing"),
        ("cut", "optimizer.pt has 5 bytes instead of 14"),
        ("changed", "optimizer.pt has another SHA-256 than when it was written"),
    ],
)
def test_damage_is_found_and_the_one_before_taken(checkpoints: CheckpointFolder, damage: str, sentence: str) -> None:
    """A missing, cut or changed file: one sentence, and the newest whole checkpoint before it."""
    whole, damaged = save(checkpoints, 1), save(checkpoints, 2)
    path = checkpoints.folder / damaged / "optimizer.pt"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        os.truncate(path, 5)
    else:
        path.write_bytes(b"X" * 14)
    assert checkpoints.newest_whole() == (whole, [f"checkpoint {damaged} is passed over: {sentence}."])


def test_when_all_are_damaged_each_is_named(checkpoints: CheckpointFolder) -> None:
    """Nothing to resume from, newest first."""
    tags = [save(checkpoints, step) for step in (1, 2)]
    for tag in tags:
        (checkpoints.folder / tag / "optimizer.pt").unlink()
    found, passed_over = checkpoints.newest_whole()
    assert found is None
    assert [sentence.split()[1] for sentence in passed_over] == tags[::-1]


def test_a_pointer_to_nothing_falls_back(checkpoints: CheckpointFolder) -> None:
    """The pointer's checkpoint was removed by hand."""
    whole = save(checkpoints, 1)
    checkpoints.point(LATEST, "step_000009")
    tag, passed_over = checkpoints.newest_whole()
    assert tag == whole
    assert "step_000009" in passed_over[0]


def test_a_save_takes_the_place_of_an_earlier_one_as_a_whole(checkpoints: CheckpointFolder) -> None:
    """What stands under the tag stays until the new one is finished, and no file of it joins the new one."""
    tag = save(checkpoints, 2)
    (checkpoints.folder / tag / "leftover").touch()
    fill(checkpoints, 2)
    assert checkpoints.newest_whole()[0] == tag
    save(checkpoints, 2)
    assert "leftover" not in checkpoints.read_manifest(tag)["files"]
    assert not (checkpoints.folder / tag / "leftover").exists()
    assert [path.name for path in checkpoints.folder.iterdir() if path.is_dir()] == [tag]


def test_a_kill_between_the_old_and_the_new_one_of_a_tag_costs_neither(
    checkpoints: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only checkpoint is written again: whichever rename the kill follows, there is a whole one to resume from."""
    tag, rename = save(checkpoints, 2), os.replace
    for renames in (1, 2):
        left = renames

        def rename_and_die(source: Path, target: Path) -> None:
            nonlocal left
            rename(source, target)
            left -= Path(source).is_dir() or Path(target).is_dir()
            if left == 0:
                raise KeyboardInterrupt

        fill(checkpoints, 2)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", rename_and_die)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.finish(tag, {"step": 2})
        checkpoints.settle()
        assert checkpoints.newest_whole() == (tag, [])
    checkpoints.abandon()
    assert [path.name for path in checkpoints.folder.iterdir() if path.is_dir()] == [tag]


def test_a_checkpoint_set_aside_is_not_taken_for_an_unfinished_one(checkpoints: CheckpointFolder) -> None:
    """The next save begins with clearing up: what was the only whole one must outlive that."""
    tag = save(checkpoints, 2)
    os.replace(checkpoints.folder / tag, checkpoints.folder / f"{checkpoints.unfinished(tag)}-former")
    fill(checkpoints, 3)
    assert checkpoints.newest_whole() == (tag, [])


def test_prune_keeps_the_newest_and_the_best(checkpoints: CheckpointFolder) -> None:
    """Two newest and the best stay; an unfinished one is not counted and not touched."""
    tags = [save(checkpoints, step) for step in (1, 2, 3, 4, 5)]
    checkpoints.point(BEST, tags[1])
    unfinished = fill(checkpoints, 6)
    checkpoints.prune(2)
    left = sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir())
    assert left == [tags[1], tags[3], tags[4], unfinished]
    assert checkpoints.faults(tags[1]) == []


def test_prune_keeps_the_best_that_a_kept_checkpoint_names(checkpoints: CheckpointFolder) -> None:
    """A fallback to update 2 needs the best of that moment, 1; once no kept checkpoint names it, it goes."""
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3)):
        tag = checkpoints.tag(step)
        fill(checkpoints, step)
        checkpoints.finish(tag, {"step": step, "best_step": best}, (BEST, LATEST) if best == step else (LATEST,))
        checkpoints.prune(2)
        if step == 3:
            assert sorted(path.name for path in checkpoints.folder.glob("step_*")) == [
                "step_000001",
                "step_000002",
                "step_000003",
            ]
    assert sorted(path.name for path in checkpoints.folder.glob("step_*")) == ["step_000003", "step_000004"]


def test_prune_never_removes_what_a_pointer_names(checkpoints: CheckpointFolder) -> None:
    """After a resume from update 3 a damaged checkpoint 5 still lies there: it does not push out the new one."""
    best, _ = save(checkpoints, 3), save(checkpoints, 5)
    checkpoints.point(BEST, best)
    written = save(checkpoints, 4)
    checkpoints.prune(1)
    assert checkpoints.pointed(LATEST) == written
    assert checkpoints.faults(written) == checkpoints.faults(best) == []


def test_tags_are_numbers(checkpoints: CheckpointFolder) -> None:
    """A million comes after 999999, as text it would come first; a folder somebody made is no checkpoint."""
    older, newer = save(checkpoints, 999_999), save(checkpoints, 1_000_000)
    (checkpoints.folder / "step_backup").mkdir()
    (checkpoints.folder / LATEST).unlink()
    assert checkpoints.newest_whole() == (newer, [])
    checkpoints.point(LATEST, newer)
    checkpoints.prune(1)
    assert (checkpoints.is_written(older), checkpoints.is_written(newer)) == (False, True)


def test_what_a_resume_passed_over_is_forgotten(checkpoints: CheckpointFolder) -> None:
    """Going on from 2: the whole 1 stays, 3 and the unfinished 4 go."""
    kept = [save(checkpoints, 1), save(checkpoints, 2)]
    save(checkpoints, 3)
    fill(checkpoints, 4)
    checkpoints.forget_after(kept[1])
    assert sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir()) == kept


def test_finish_moves_the_pointers_it_is_given_in_order(
    checkpoints: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after the first leaves the second where it was."""
    old, tag = save(checkpoints, 1), checkpoints.tag(2)
    fill(checkpoints, 2)
    move = checkpoints.point

    def move_and_die(pointer: str, tag: str) -> None:
        move(pointer, tag)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "point", move_and_die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.finish(tag, {"step": 2}, (BEST, LATEST))
    assert (checkpoints.pointed(BEST), checkpoints.pointed(LATEST)) == (tag, old)


def test_a_pointer_moves_in_one_step(checkpoints: CheckpointFolder) -> None:
    """The old content is replaced, and no temporary file stays."""
    save(checkpoints, 1)
    checkpoints.point(LATEST, "step_000002")
    assert (checkpoints.folder / LATEST).read_text() == "step_000002\n"
    assert not list(checkpoints.folder.glob(".*tmp"))
