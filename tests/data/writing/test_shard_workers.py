"""Several processes write what one writes; their errors are its errors, and none of them is left behind."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.shard_set import verify
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.shards import Writing, write_shards
from adaptive_ft.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_bytes_are_those_of_one_process(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    """More shards than are handed out at a time, so that the queue fills and drains."""
    done: list[int] = []
    for processes in (1, 2):
        how = Writing(processes, verify=True, progress=done.append)
        write_shards(records, tmp_path / str(processes), info, images_per_shard=1, how=how)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert done == [1] * 14
    assert verify(tmp_path / "2").images == 7
    assert multiprocessing.active_children() == []


def test_errors_are_those_of_one_process(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    """Of two bad images the first of the source is told, whichever process was faster."""
    records[3] = replace(records[3], features=records[3].features * float("nan"))
    records[4] = replace(records[4], width=1)
    told = set()
    for processes in (1, 2):
        with pytest.raises(UserError, match="'img003': the features of region 0 hold NaN") as raised:
            write_shards(records, tmp_path / "set", info, images_per_shard=1, how=Writing(processes))
        told.add(str(raised.value))
    assert len(told) == 1
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []


def fall_over(record: ImageRecord) -> ImageRecord:
    """What the system does to a process when memory runs out; only where there is a parent to see it."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return record


def test_a_killed_process_is_told(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a process that wrote shards was killed"):
        write_shards(records, tmp_path / "set", info, read=fall_over, how=Writing(processes=2))
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == []
