"""Training and evaluation streams over real shards: coverage, equality over ranks, exact resume, clean threads."""

import inspect
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_ft.data.format.manifest import MANIFEST_NAME, ShardInfo
from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.reading.choice import DataConfig
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream, TrainStream, read_ahead
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError


@pytest.fixture
def shards(shard_folder: Path) -> ShardSet:
    return ShardSet.open(shard_folder)


def ids(batch: RawBatch) -> list[int]:
    return [question.question_id for question in batch.questions]


def take(stream: TrainStream, batches: int) -> list[list[int]]:
    taken = [ids(batch) for batch in islice(stream, batches)]
    stream.close()
    return taken


def assert_rows_are_right(batch: RawBatch, records: list[ImageRecord]) -> None:
    by_id = {record.image_id: record for record in records}
    for row, (image_id, question) in enumerate(zip(batch.image_ids, batch.questions, strict=True)):
        record, count = by_id[image_id], len(by_id[image_id].boxes)
        assert question.question_id in [asked.question_id for asked in record.questions]
        assert batch.box_mask_BN[row].tolist() == [True] * count + [False] * (4 - count)
        np.testing.assert_array_equal(batch.boxes_BN4[row, :count], record.boxes)
        np.testing.assert_array_equal(batch.features_BND[row, :count], record.features.astype(np.float16))
        assert not batch.boxes_BN4[row, count:].any()
        assert not batch.features_BND[row, count:].any()
        assert batch.sizes_B2[row].tolist() == [100, 50]


def test_a_batch_holds_what_was_written(shards: ShardSet, records: list[ImageRecord]) -> None:
    with_regions = EvalStream(shards, batch_size=13)
    (batch,) = with_regions
    assert_rows_are_right(batch, records)
    assert batch.features_BND.dtype == torch.float16, "as stored"
    assert batch.boxes_BN4.dtype == batch.sizes_B2.dtype == torch.float32
    assert batch.box_mask_BN.dtype == batch.valid_B.dtype == torch.bool
    asked = [question for record in records for question in record.questions]
    assert ids(batch) == [question.question_id for question in asked]
    assert batch.questions[0] == replace(asked[0], scores={"red": 1.0, "blue": 0.3})


def test_float32_features_come_back_exactly(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    write_shards(records, tmp_path / "set", replace(info, feature_dtype="float32"))
    (batch,) = EvalStream(ShardSet.open(tmp_path / "set"), batch_size=13)
    np.testing.assert_array_equal(batch.features_BND[0, :3], records[0].features)


def test_each_question_once_per_epoch(shards: ShardSet, records: list[ImageRecord]) -> None:
    stream = TrainStream(shards, batch_size=4, seed=3)
    batches = list(islice(stream, 13))  # 52 examples = 4 epochs
    stream.close()
    for batch in batches:
        assert_rows_are_right(batch, records)
    seen = [number for batch in batches for number in ids(batch)]
    for epoch in range(4):
        assert len(set(seen[13 * epoch : 13 * (epoch + 1)])) == 13
    assert seen[:13] != seen[13:26]


def test_resume_at_every_step_continues_the_undisturbed_run(shards: ShardSet) -> None:
    arguments = {"batch_size": 3, "rank": 1, "world_size": 2, "seed": 9}
    undisturbed = take(TrainStream(shards, **arguments), 10)
    for step in range(10):
        before = TrainStream(shards, **arguments)
        take(before, step)
        state = before.state_dict()
        assert state == {"examples_seen": step * 6}
        after = TrainStream(shards, **arguments)
        after.load_state_dict(json.loads(json.dumps(state)))
        assert take(after, 10 - step) == undisturbed[step:]
        assert take(before, 10 - step) == undisturbed[step:]  # a closed stream can go on too


def test_a_set_smaller_than_a_batch_repeats(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    write_shards([make_image(0)], tmp_path / "tiny", info)
    (batch,) = take(TrainStream(ShardSet.open(tmp_path / "tiny"), batch_size=7), 1)
    assert Counter(batch) in ({0: 4, 1: 3}, {0: 3, 1: 4})


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (4, 1), (4, 2), (5, 3), (2, 4), (3, 20)])
def test_evaluation_asks_every_question_once(shards: ShardSet, batch_size: int, world_size: int) -> None:
    streams = [
        EvalStream(shards, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    asked: list[int] = []
    for stream in streams:
        batches = list(stream)
        assert len(batches) == len(stream) == len(streams[0])
        assert all(len(batch.questions) == batch_size == len(batch.valid_B) for batch in batches)
        asked += [number for batch in batches for number, valid in zip(ids(batch), batch.valid_B, strict=True) if valid]
    assert asked == ids(next(iter(EvalStream(shards, batch_size=13))))


def test_blind_reads_no_features(shards: ShardSet, shard_folder: Path) -> None:
    content = bytearray((shard_folder / "shard-00000.tar").read_bytes())
    place = shards.locate(0).row
    content[place.features_offset : place.features_offset + 4] = b"\xff" * 4  # NaN, if anybody looked
    (shard_folder / "shard-00000.tar").write_bytes(content)
    (batch,) = EvalStream(shards.with_blind(), batch_size=13)
    assert batch.features_BND.shape == (13, 1, 5)
    assert not batch.features_BND.any()
    assert batch.boxes_BN4.tolist() == [[[0, 0, 100, 50]]] * 13
    assert batch.box_mask_BN.tolist() == [[True]] * 13


def test_shards_without_regions_are_read_blind_only(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    write_shards([make_image(0, boxes=0, feature_dim=0)], tmp_path / "bare", info)
    bare = ShardSet.open(tmp_path / "bare")
    with pytest.raises(UserError, match=r"read them with --data\.blind"):
        TrainStream(bare, batch_size=1)
    (batch,) = EvalStream(bare.with_blind(), batch_size=2)
    assert (batch.features_BND.shape, ids(batch)) == ((2, 1, 16), [0, 1])


def poke(shards: ShardSet, column: str, content: bytes) -> None:
    place = shards.locate(5)
    with Path(shards.files.name(place.shard)).open("r+b") as file:
        file.seek(getattr(place.row, column))
        file.write(content)


@pytest.mark.parametrize(
    ("column", "content", "message"),
    [
        (
            "features_offset",
            b"\x00\x7e",
            r"shard-00001\.tar, sample 'img002': its member 'features' is not what was written",
        ),
        (
            "boxes_offset",
            b"\x00\x00\x80\x7f",
            r"shard-00001\.tar, sample 'img002': its member 'boxes' is not what was written",
        ),
        ("json_offset", b"]", r"shard-00001\.tar, image number 0: its member 'json' is not what was written"),
    ],
)
def test_damage_found_while_reading_reaches_the_consumer(
    shards: ShardSet, column: str, content: bytes, message: str
) -> None:
    poke(shards, column, content)
    with pytest.raises(UserError, match=message):
        list(EvalStream(shards, batch_size=2))
    stream = TrainStream(shards, batch_size=13)
    for _ in range(2):  # asking again does not end the stream silently
        with pytest.raises(UserError, match=message):
            next(stream)


def test_a_shard_cut_after_opening_is_a_short_read(shards: ShardSet) -> None:
    path = Path(shards.files.name(1))
    path.write_bytes(path.read_bytes()[: shards.locate(5).row.json_offset + 6])
    with pytest.raises(UserError, match=r"shard-00001\.tar, image number 0: its member 'json' has 6 of \d+ bytes"):
        list(EvalStream(shards, batch_size=2))


def test_a_manifest_with_another_feature_size_is_noticed(shard_folder: Path) -> None:
    path = shard_folder / MANIFEST_NAME
    path.write_text(path.read_text().replace('"feature_dim": 5', '"feature_dim": 4'))
    with pytest.raises(UserError, match="sample 'img000' does not match manifest"):
        list(EvalStream(ShardSet.open(shard_folder), batch_size=2))


def test_no_thread_survives(shards: ShardSet) -> None:
    before = set(threading.enumerate())
    stream = TrainStream(shards, batch_size=2, readers=2)
    next(stream)
    assert set(threading.enumerate()) - before  # it does read in threads
    stream.close()
    evaluation = iter(EvalStream(shards, batch_size=2))
    next(evaluation)
    evaluation.close()
    list(EvalStream(shards, batch_size=2))
    assert set(threading.enumerate()) == before


def test_reading_ahead_keeps_order_and_is_bounded(shards: ShardSet) -> None:
    (batch,) = EvalStream(shards, batch_size=13)
    released, halted, started = threading.Event(), threading.Event(), []

    def read(job: int) -> RawBatch:
        started.append(job)
        if job == 0:
            released.wait(10)
        return replace(batch, image_ids=[str(job)])

    batches = read_ahead(read, range(20), 2, halted.set, depth=3)
    timer = threading.Timer(0.2, released.set)
    timer.start()
    assert next(batches).image_ids == ["0"]
    assert max(started) <= 3  # depth 3, and one more since the first came out
    assert not halted.is_set()
    assert [batch.image_ids for batch in batches] == [[str(job)] for job in range(1, 20)]
    assert halted.is_set()
    timer.join()


def test_every_reader_has_a_batch_to_read() -> None:
    """Eight of them, each of which waits for the seven others."""
    together = threading.Barrier(8, timeout=60)
    assert list(read_ahead(lambda job: together.wait() >= 0, range(16), 8, threading.Event().set)) == [True] * 16


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_an_impossible_seed(shards: ShardSet, seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed {seed} is none: it lies from 0 to 2\^64 - 1"):
        TrainStream(shards, batch_size=2, seed=seed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 0}, "batch_size 0"), ({"readers": -1}, "readers -1"), ({"rank": 2, "world_size": 2}, "rank 2")],
)
def test_impossible_sizes(shards: ShardSet, changes: dict[str, int], message: str) -> None:
    for stream in (TrainStream, EvalStream):
        with pytest.raises(ValueError, match=message):
            stream(shards, **{"batch_size": 2, **changes})


@pytest.mark.parametrize("stream", [TrainStream, EvalStream])
def test_one_reader_is_the_default_here_as_in_the_config(stream: type) -> None:
    assert inspect.signature(stream).parameters["readers"].default == DataConfig().readers
