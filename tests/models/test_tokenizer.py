"""Whose tokenizer a run reads questions with: the one asked for, the base model's, or the shards'."""

from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import ModelConfig
from adaptive_ft.models.tokenizer import load_tokenizer, read_tokenizer


def write_tokenizer(folder: Path, words: str) -> str:
    train_words([words]).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def shards(workplace: Path) -> ShardSet:
    return ShardSet.open(workplace / "world/target/train")


def test_the_one_asked_for_wins_then_the_models_then_the_shards(shards: ShardSet, tmp_path: Path) -> None:
    asked, models = write_tokenizer(tmp_path / "asked", "one"), write_tokenizer(tmp_path / "model", "one two")
    (tmp_path / "bare").mkdir()
    sizes = [
        len(load_tokenizer(asked, ModelConfig(name=models), shards)),
        len(load_tokenizer(None, ModelConfig(name=models), shards)),
    ]
    assert sizes == [6, 7], "five special tokens, and the words"
    for name in (None, str(tmp_path / "bare")):
        assert "color" in load_tokenizer(None, ModelConfig(name=name), shards).get_vocab()


def test_none_anywhere_and_one_that_cannot_be_read_are_named(shards: ShardSet, tmp_path: Path) -> None:
    nameless = replace(shards, manifest=replace(shards.manifest, tokenizer=None, tokenizer_files={}))
    with pytest.raises(UserError, match=r"name a tokenizer: give one with --data\.tokenizer"):
        load_tokenizer(None, ModelConfig(), nameless)
    with pytest.raises(UserError, match=f"The tokenizer '{tmp_path}' cannot be read"):
        load_tokenizer(str(tmp_path), ModelConfig(), shards)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ['{"a": 1', "", "[]", '{"added_tokens": []}'])
def test_files_that_are_no_tokenizer_are_told_in_one_line(file: str, content: str, tmp_path: Path) -> None:
    if file == "tokenizer_config.json" and content.endswith("}"):
        pytest.skip("unknown entries of a configuration mean nothing")
    write_tokenizer(tmp_path, "one two")
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=f"The tokenizer '{tmp_path}' cannot be read: .") as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
