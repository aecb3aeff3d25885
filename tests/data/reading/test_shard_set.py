"""Opening and verifying shard sets: whatever is damaged is named, with what was expected and what was found."""

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from adaptive_ft.data.format.manifest import ShardEntry, ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CHEAP: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing shard": ("shard-00001.tar", Path.unlink, r"shard-00001\.tar is missing"),
    "truncated tar": ("shard-00001.tar", cut, r"shard-00001\.tar has 9728 bytes, the manifest says 10240"),
    "missing index": ("shard-00002.index.npy", Path.unlink, r"shard-00002\.index\.npy is missing"),
    "flipped index": ("shard-00002.index.npy", flip, r"shard-00002\.index\.npy does not match the manifest"),
}


@pytest.mark.parametrize("name", CHEAP)
def test_opening_finds_what_is_missing_or_cut(name: str, shard_folder: Path) -> None:
    file, damage, message = CHEAP[name]
    damage(shard_folder / file)
    with pytest.raises(UserError, match=message):
        ShardSet.open(shard_folder)


def test_every_index_is_read_once(shard_folder: Path) -> None:
    with patch.object(Path, "read_bytes", autospec=True, side_effect=Path.read_bytes) as read:
        ShardSet.open(shard_folder)
    assert sorted(call.args[0].name for call in read.call_args_list) == [
        f"shard-{number:05d}.index.npy" for number in range(4)
    ]


def test_verify_finds_a_flipped_bit(shard_folder: Path) -> None:
    seen: list[str] = []

    def progress(shards: Sequence[ShardEntry]) -> Sequence[ShardEntry]:
        seen.extend(shard.file for shard in shards)
        return shards

    assert verify(shard_folder, progress).questions == 13
    assert seen == [f"shard-{number:05d}.tar" for number in range(4)]
    flip(shard_folder / "shard-00003.tar")
    ShardSet.open(shard_folder)
    with pytest.raises(UserError, match=r"shard-00003\.tar does not match the manifest: expected sha256"):
        verify(shard_folder)


def test_every_example_is_located(shard_folder: Path, records: list[ImageRecord]) -> None:
    shards = ShardSet.open(shard_folder)
    assert (shards.num_examples, shards.num_images, shards.max_boxes, shards.feature_dim) == (13, 7, 4, 5)
    expected = [
        (number // 2, number, place) for number, record in enumerate(records) for place in range(len(record.questions))
    ]
    found = [shards.locate(example) for example in range(13)]
    assert [(place.shard, place.image, place.question) for place in found] == expected


def test_the_index_points_at_the_members(shard_folder: Path) -> None:
    shards = ShardSet.open(shard_folder)
    for example in range(shards.num_examples):
        place = shards.locate(example)
        with tarfile.open(shards.files.name(place.shard)) as tar:
            offsets = {
                member.name.split(".", 1)[1]: (member.offset_data, member.size)
                for member in tar
                if member.name.startswith(f"img{place.image:03d}.")
            }
        assert offsets == {
            "json": (place.row.json_offset, place.row.json_size),
            "boxes.f32": (place.row.boxes_offset, place.row.num_boxes * 4 * 4),
            "features.f16": (place.row.features_offset, place.row.num_boxes * 5 * 2),
        }


def test_blind_keeps_the_feature_size_unless_told(
    shard_folder: Path, make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    shards = ShardSet.open(shard_folder)
    assert (shards.with_blind().feature_dim, shards.with_blind().max_boxes) == (5, 1)
    assert shards.with_blind(3).feature_dim == 3
    write_shards([make_image(0, boxes=0, feature_dim=0)], tmp_path / "bare", info)
    bare = ShardSet.open(tmp_path / "bare")
    assert (bare.max_boxes, bare.feature_dim, bare.with_blind().feature_dim) == (0, 0, 16)
    assert np.all(bare.index_I["features_offset"] == 0)


def test_the_fingerprint_tells_data_apart(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    """Equal for equal bytes wherever they lie, blind or not; other records, other digits."""
    for name, chosen in (("one", records), ("two", records), ("fewer", records[1:])):
        write_shards(chosen, tmp_path / name, info)
    one, two, fewer = (ShardSet.open(tmp_path / name) for name in ("one", "two", "fewer"))
    assert one.fingerprint == two.fingerprint == one.with_blind().fingerprint
    assert len(one.fingerprint) == 12
    assert one.fingerprint != fewer.fingerprint
