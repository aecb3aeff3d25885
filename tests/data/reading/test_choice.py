"""The data section of a config: where copies go, and what is done about shards that were cut short."""

import logging
import os
import shutil
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from adaptive_ft.data.reading.choice import DataConfig, bad_samples, open_set, open_train_and_val
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.errors import UserError


def test_a_user_without_a_name_is_called_by_number(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container; here the folder then belongs to somebody else, which names it."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"/adaptive-ft-shards-54321/\w+' belongs to another user"):
        open_set(f"pipe:cat {shard_folder}/{{}}", DataConfig())


@pytest.fixture
def cut(shard_folder: Path, tmp_path: Path) -> DataConfig:
    """A training set whose second shard has lost the regions of image 3 (question 6 of 13), and a whole set."""
    shutil.copytree(shard_folder, tmp_path / "val")
    place = ShardSet.open(shard_folder).locate(6)
    os.truncate(shard_folder / "shard-00001.tar", place.row.boxes_offset + 3)
    return DataConfig(train=str(shard_folder), val=str(tmp_path / "val"), max_bad_share=0.1)


def test_a_cut_shard_is_warned_of_and_what_it_lost_is_left_out(
    cut: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train, _ = open_train_and_val(cut)
    assert "shard-00001.tar has" in caplog.text
    assert "1 of its 2 samples are cut off, the first is number 1." in caplog.text
    assert bad_samples(cut, train).left_out == {6}
    with TrainStream(train, batch_size=13, bad=bad_samples(cut, train)) as stream:
        (batch,) = islice(stream, 1)
    assert int(batch.valid_B.sum()) == 12


def test_more_lost_examples_than_are_allowed_end_the_run_before_it_begins(cut: DataConfig) -> None:
    with pytest.raises(UserError, match=r"1 of 13 examples are damaged, .* allows no more than 0"):
        open_train_and_val(replace(cut, max_bad_share=0.05))


def test_a_cut_shard_is_refused_where_nothing_is_skipped(cut: DataConfig) -> None:
    """In training that is to fail, and in every evaluation."""
    for changes in ({"on_bad": "fail"}, {"train": cut.val, "val": cut.train}):
        with pytest.raises(UserError, match=r"shard-00001\.tar has .* Copy it again"):
            open_train_and_val(replace(cut, **changes))


def test_a_shard_that_is_longer_or_missing_is_always_refused(cut: DataConfig) -> None:
    path = Path(cut.val) / "shard-00002.tar"
    os.truncate(path, path.stat().st_size + 1)
    with pytest.raises(UserError, match=r"shard-00002\.tar has .* it was cut or replaced"):
        open_train_and_val(replace(cut, train=cut.val))
    path.unlink()
    with pytest.raises(UserError, match=r"shard-00002\.tar is missing"):
        open_train_and_val(replace(cut, train=cut.val))
