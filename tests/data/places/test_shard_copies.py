"""Copies of shards from elsewhere: each made once, healed when damaged, never more than there is room for."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.bad_samples import DamagedSample
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError
from tests.data.shard_server import ROOMY, Server, assert_same, trained

pytestmark = pytest.mark.usefixtures("impatient")


def open_files() -> Iterator[str]:
    """What this process has open at the moment, while threads open and close files."""
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            yield os.readlink(path)


def test_there_are_no_more_copies_than_there_is_room_for(
    tmp_path: Path, make_image: Callable[..., ImageRecord], info: ShardInfo
) -> None:
    """Forty shards, room for 32, which is the least, and two that are being copied; an evaluation plans four."""
    origin = tmp_path / "origin"
    manifest = write_shards([make_image(number) for number in range(40)], origin, info, images_per_shard=1)
    room = sum(entry.bytes for entry in manifest.shards[:32])
    shards = ShardSet.open_remote(f"pipe:cat {origin}/{{}}", tmp_path / "cache", room)
    found = []
    for batch in EvalStream(shards, batch_size=2):
        found.append(batch)
        # An unlinked file that is still open takes its room, too.
        gone = [name for name in open_files() if name.endswith(".tar (deleted)")]
        assert len(list((tmp_path / "cache").glob("*/*.tar"))) + len(gone) <= 32 + 2
    assert_same(found, list(EvalStream(ShardSet.open(origin), batch_size=2)))


def test_a_room_that_does_not_hold_what_is_planned_is_refused(
    tmp_path: Path, make_image: Callable[..., ImageRecord], info: ShardInfo
) -> None:
    """The largest 32 of 40 shards."""
    images = [make_image(number, boxes=1 + number) for number in range(40)]
    manifest = write_shards(images, tmp_path / "origin", info, images_per_shard=1)
    address, least = f"pipe:cat {tmp_path}/origin/{{}}", sum(entry.bytes for entry in manifest.shards[8:])
    with pytest.raises(UserError, match=r"cache_gb is .*; the 32 shards of 'pipe:.* take up to 0\.\d+: give as many"):
        ShardSet.open_remote(address, tmp_path / "cache", least - 1)
    ShardSet.open_remote(address, tmp_path / "cache", least)


def test_a_copy_removed_by_another_process_is_made_again(server: Server, shard_folder: Path, tmp_path: Path) -> None:
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    first = trained(shards)
    for copy in tmp_path.glob("cache/*/*.tar"):
        copy.unlink()
    assert_same(trained(shards), first)


def spoil(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[520] ^= 1  # within the first member
    copy.write_bytes(content)


def cut(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-512])


@pytest.mark.parametrize("damage", [spoil, cut])
def test_a_copy_that_was_damaged_is_made_again(damage: Callable[[Path], None], server: Server, tmp_path: Path) -> None:
    first = trained(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY))
    for copy in tmp_path.glob("cache/*/*"):
        if copy.suffix in (".tar", ".npy"):
            damage(copy)
    assert_same(trained(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)), first)
    assert server.asked.count("shard-00001.tar") == server.asked.count("shard-00001.index.npy") == 2


def test_an_origin_that_is_damaged_behind_a_right_hash_is_told_with_both_places(
    shard_folder: Path, tmp_path: Path
) -> None:
    """The index says another hash than the bytes have: a new copy cannot help, and is tried once."""
    shards = ShardSet.open_remote(f"pipe:cat {shard_folder}/{{}}", tmp_path, ROOMY)
    shards.index_I["features_xxh3"][2] ^= 1
    with pytest.raises(DamagedSample, match=r"shard-00001\.tar \(a copy of 'pipe:cat .*shard-00001\.tar'\)"):
        list(EvalStream(shards, batch_size=2))


def test_what_a_killed_process_left_is_removed(server: Server, tmp_path: Path) -> None:
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    left = shards.folder / f".shard-00001.tar.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    trained(shards)
    assert not left.exists()


def test_a_folder_for_copies_that_cannot_be_used_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"the folder for copies .* cannot be used \(.*\); name another with --data.cache"
    ):
        ShardSet.open_remote(server.address, tmp_path / "file", ROOMY)


def test_nothing_stays_open(server: Server, tmp_path: Path) -> None:
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    before = len(os.listdir("/proc/self/fd"))
    trained(shards)
    list(EvalStream(shards, batch_size=2))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_is_copied_once_for_all_ranks_and_runs(server: Server, tmp_path: Path) -> None:
    ranks = [ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY) for _ in range(3)]
    threads = [threading.Thread(target=trained, args=(shards,)) for shards in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trained(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY))
    files = [name for name in server.asked if name != "manifest.json"]
    assert sorted(files) == sorted(
        [f"shard-{number:05d}.{ending}" for number in range(4) for ending in ("tar", "index.npy")]
    )


def test_a_set_written_anew_is_not_mixed_with_old_copies(
    server: Server, shard_folder: Path, tmp_path: Path, make_image: Callable[..., ImageRecord], info: ShardInfo
) -> None:
    trained(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY))
    for file in shard_folder.iterdir():
        file.unlink()
    write_shards([make_image(number) for number in (8, 9)], shard_folder, info)
    (batch,) = EvalStream(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY), batch_size=4)
    assert batch.image_ids == ["img008"] * 2 + ["img009"] * 2
