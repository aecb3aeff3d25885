"""A set brings its tokenizer along: copied, moved, or from elsewhere; and a changed one is noticed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.format.tokenizer_files import tokenizer_hashes
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.data.writing.shard_plan import shard_plan
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.options import ModelConfig
from adaptive_ft.models.tokenizer import load_tokenizer


@pytest.fixture
def words(tmp_path: Path) -> Path:
    train_words(["is it red"]).save_pretrained(tmp_path / "words")
    return tmp_path / "words"


@pytest.fixture
def folder(make_image: Callable[..., ImageRecord], info: ShardInfo, words: Path, tmp_path: Path) -> Path:
    write_shards([make_image(0)], tmp_path / "set", replace(info, tokenizer=words))
    return tmp_path / "set"


def vocabulary(shards: ShardSet) -> dict[str, int]:
    found: dict[str, int] = load_tokenizer(None, ModelConfig(), shards).get_vocab()
    return found


def test_a_set_is_read_with_its_tokenizer_wherever_it_lies(folder: Path, words: Path, tmp_path: Path) -> None:
    expected = train_words(["is it red"]).get_vocab()
    shutil.rmtree(words)
    shutil.copytree(folder, tmp_path / "some/where/else")
    assert vocabulary(ShardSet.open(tmp_path / "some/where/else")) == expected
    fetched = ShardSet.open_remote(f"pipe:cat {folder}/{{}}", tmp_path / "cache", 10**9)
    assert vocabulary(fetched) == expected
    assert not fetched.folder.is_relative_to(folder)


@pytest.mark.parametrize("harm", ["changed", "lost"])
def test_a_harmed_tokenizer_is_named(harm: str, folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    if harm == "changed":
        path.write_text(path.read_text().replace("red", "dry"))
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json (does not match the manifest|is missing)"):
        ShardSet.open(folder)


def test_a_folder_without_a_tokenizer_is_refused(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty' holds no tokenizer"):
        tokenizer_hashes(tmp_path / "empty")
    with pytest.raises(UserError, match="empty' holds no tokenizer"):
        write_shards([make_image(0)], tmp_path / "set", replace(info, tokenizer=tmp_path / "empty"))
    assert not (tmp_path / "set").exists()


def test_an_interrupted_conversion_with_another_tokenizer_begins_anew(words: Path, info: ShardInfo) -> None:
    named = replace(info, tokenizer=words)
    before = shard_plan({}, named)
    assert shard_plan({}, named) == before
    train_words(["is it blue"]).save_pretrained(words)
    assert shard_plan({}, named) != before


def test_a_hub_id_stays_a_hub_id(make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    write_shards([make_image(0)], tmp_path / "set", replace(info, tokenizer="some/id"))
    assert Manifest.load(tmp_path / "set").tokenizer_from(tmp_path / "set") == "some/id"
    assert not (tmp_path / "set/tokenizer").exists()
