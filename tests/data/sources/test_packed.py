"""adaptive-ft merge and reshard: the same examples bit for bit in another cut, and nothing damaged or doubled in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_ft.cli import run_command
from adaptive_ft.data.format.manifest import LABELLED_PICTURES, ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord, labelled_picture
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError

PNG = b"\x89PNG\r\n\x1a\nnot decoded here"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, and with weights that are no part of it."""
    folder = tmp_path_factory.mktemp("words")
    train_words(["is it red"]).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def halves(records: list[ImageRecord], info: ShardInfo, words: Path, tmp_path: Path) -> list[str]:
    """Three images in shards of 2, four in shards of 3, each with the tokenizer."""
    named = replace(info, tokenizer=words)
    write_shards(records[:3], tmp_path / "a", named, images_per_shard=2)
    write_shards(records[3:], tmp_path / "b", named, images_per_shard=3)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_sets_merged_and_cut_again_hold_the_same_examples(
    halves: list[str],
    records: list[ImageRecord],
    info: ShardInfo,
    words: Path,
    tmp_path: Path,
) -> None:
    """Byte by byte what one writer makes of all the images, with one process or two."""
    whole = tmp_path / "whole"
    write_shards(records, whole, replace(info, tokenizer=words), images_per_shard=4)
    run_command(["merge", str(tmp_path / "one"), *halves, "--images_per_shard", "4", "--verify"])
    assert contents(tmp_path / "one") == contents(whole)
    run_command(["reshard", str(whole), str(tmp_path / "deep/two"), "--images_per_shard", "1", "--processes", "2"])
    assert len(verify(tmp_path / "deep/two").shards) == 7
    assert "tokenizer/tokenizer.json" in contents(tmp_path / "deep/two")
    assert "tokenizer/model.safetensors" not in contents(whole)
    (one,), (two,) = (EvalStream(ShardSet.open(tmp_path / name), batch_size=16) for name in ("whole", "deep/two"))
    assert one.questions == two.questions
    assert one.image_ids == two.image_ids
    for name in ("features_BND", "boxes_BN4", "box_mask_BN", "sizes_B2"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    run_command(["reshard", str(tmp_path / "deep/two"), str(tmp_path / "back"), "--images_per_shard", "4"])
    assert contents(tmp_path / "back") == contents(whole)


def test_features_may_change_their_type(
    records: list[ImageRecord],
    info: ShardInfo,
    tmp_path: Path,
) -> None:
    """As if they had been written so at first; what does not fit is named."""
    for dtype in ("float32", "float16"):
        write_shards(records, tmp_path / dtype, replace(info, feature_dtype=dtype))
    run_command(["reshard", str(tmp_path / "float32"), str(tmp_path / "out"), "--feature_dtype", "float16"])
    assert contents(tmp_path / "out") == contents(tmp_path / "float16")
    records[2] = replace(records[2], features=records[2].features * 0 + 7e4)
    write_shards(records, tmp_path / "large", replace(info, feature_dtype="float32"))
    with pytest.raises(UserError, match="'img002': feature 70000 does not fit float16"):
        run_command(["reshard", str(tmp_path / "large"), str(tmp_path / "small"), "--feature_dtype", "float16"])


@pytest.mark.parametrize(("member", "kind"), [(b"what colour is thing 400", "json"), (None, "features")])
def test_a_damaged_sample_is_named(
    member: bytes | None,
    kind: str,
    records: list[ImageRecord],
    info: ShardInfo,
    tmp_path: Path,
) -> None:
    """One changed byte, in the description or in the numbers."""
    write_shards(records, tmp_path / "set", replace(info, feature_dtype="float32"), images_per_shard=3)
    path = tmp_path / "set/shard-00001.tar"
    member = member or records[4].features.astype("<f4").tobytes()
    content = path.read_bytes()
    assert member in content
    path.write_bytes(content.replace(member, bytes([member[0] ^ 1]) + member[1:]))
    sample = "image number 1" if kind == "json" else "sample 'img004'"
    with pytest.raises(UserError, match=rf"shard-00001\.tar, {sample}: its member '{kind}' is not what was written"):
        run_command(["reshard", str(tmp_path / "set"), str(tmp_path / "out"), "--images_per_shard", "7"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


OTHERS: dict[str, tuple[dict[str, object], str]] = {
    "extractor": ({"feature_extractor": "another"}, "feature_extractor differs: 'random' and 'another'"),
    "type": ({"feature_dtype": "float32"}, "feature_dtype differs: 'float16' and 'float32'"),
    "answers": ({"answer_table": ["red", "green"]}, r"answer_table differs: 2 and 2 answers, 'green' is in one alone"),
    "order": ({"answer_table": ["blue", "red"]}, "answer_table differs: the same answers in another order"),
    "split": ({"split": "val"}, r"of the split 'train' and '.*other' of 'val'; name the split .* --split"),
    "tokenizer": ({"tokenizer": "bert-base-uncased"}, "their tokenizer differs: 'None' and 'bert-base-uncased'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_only_sets_of_one_kind_become_one(
    name: str,
    records: list[ImageRecord],
    info: ShardInfo,
    tmp_path: Path,
) -> None:
    changes, message = OTHERS[name]
    write_shards(records[:3], tmp_path / "one", info)
    write_shards(records[3:], tmp_path / "other", replace(info, **changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        run_command(["merge", str(tmp_path / "out"), str(tmp_path / "one"), str(tmp_path / "other")])
    assert not (tmp_path / "out").exists()


def test_features_of_other_sizes_and_doubled_ids_stay_apart(
    halves: list[str],
    make_image: Callable[..., ImageRecord],
    info: ShardInfo,
    words: Path,
    tmp_path: Path,
) -> None:
    named = replace(info, tokenizer=words)
    write_shards([make_image(9, feature_dim=4)], tmp_path / "narrow", named)
    with pytest.raises(UserError, match="feature_dim differs: '5' and '4'"):
        run_command(["merge", str(tmp_path / "out"), *halves, str(tmp_path / "narrow")])
    with pytest.raises(UserError, match=r"image 'img000' \(read from .*a/shard-00000\.tar\) comes twice"):
        run_command(["merge", str(tmp_path / "out"), *halves, halves[0]])
    write_shards([replace(make_image(0), image_id="other")], tmp_path / "again", named)
    with pytest.raises(UserError, match=r"image 'other' .* question 0 was asked about an earlier image too"):
        run_command(["merge", str(tmp_path / "out"), *halves, str(tmp_path / "again")])
    with pytest.raises(UserError, match="needs two sets or more"):
        run_command(["merge", str(tmp_path / "out"), halves[0]])


def test_splits_of_other_names_get_the_one_that_is_given(
    records: list[ImageRecord],
    info: ShardInfo,
    tmp_path: Path,
) -> None:
    sets = [str(tmp_path / name) for name in ("train", "nominival")]
    for folder, part in zip(sets, (records[:3], records[3:]), strict=True):
        write_shards(part, Path(folder), replace(info, split=Path(folder).name))
    run_command(["merge", str(tmp_path / "out"), *sets, "--split", "trainval"])
    assert verify(tmp_path / "out").split == "trainval"


def test_pictures_travel_as_they_are(info: ShardInfo, tmp_path: Path) -> None:
    pictures = [labelled_picture(f"p{n}", n, "red", PNG + bytes([n]), (5, 5)) for n in range(5)]
    own = replace(info, content=LABELLED_PICTURES, feature_extractor="none")
    for cut in (2, 3):
        write_shards(pictures, tmp_path / str(cut), own, images_per_shard=cut)
    run_command(["reshard", str(tmp_path / "2"), str(tmp_path / "out"), "--images_per_shard", "3"])
    assert contents(tmp_path / "out") == contents(tmp_path / "3")


def test_questions_without_regions_travel_too(
    make_image: Callable[..., ImageRecord],
    info: ShardInfo,
    tmp_path: Path,
) -> None:
    bare = [replace(make_image(n, boxes=0), features=np.empty((0, 0), np.float32)) for n in range(3)]
    write_shards(bare, tmp_path / "set", info)
    run_command(["reshard", str(tmp_path / "set"), str(tmp_path / "out")])
    assert contents(tmp_path / "out") == contents(tmp_path / "set")
