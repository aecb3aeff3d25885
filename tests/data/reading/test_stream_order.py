"""The order of training is one, whatever the ranks and readers, and goes on where it stopped, whoever goes on."""

import json
from itertools import chain, count, islice

import numpy as np
import pytest

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.shards import write_shards
from tests.data.conftest import make_question


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """98 questions about 32 images without regions, in 7 shards of 5 images, the last of two."""
    question_ids = count()
    records = [
        ImageRecord(
            image_id=f"img{number:03d}",
            width=9,
            height=9,
            boxes=np.empty((0, 4), np.float32),
            features=np.empty((0, 0), np.float32),
            questions=tuple(make_question(next(question_ids)) for _ in range(1 + (number * number) % 6)),
        )
        for number in range(32)
    ]
    folder = tmp_path_factory.mktemp("many") / "set"
    info = ShardInfo(split="train", domain="test", feature_extractor="none", answer_table=["red", "blue"])
    assert write_shards(records, folder, info, images_per_shard=5).questions == 98
    return ShardSet.open(folder).with_blind(1)


def asked(batch: RawBatch) -> list[int]:
    return [question.question_id for question in batch.questions]


GLOBAL_BATCH = 24
WORLDS = (1, 2, 3, 4, 8)


class Team:
    """The streams of all ranks, asked in turn, as a job that is killed and started again finds them."""

    def __init__(self, shards: ShardSet, world_size: int, readers: int, state: dict[str, int] | None = None) -> None:
        self.streams = [
            TrainStream(
                shards,
                batch_size=GLOBAL_BATCH // world_size,
                rank=rank,
                world_size=world_size,
                readers=readers,
                seed=4,
            )
            for rank in range(world_size)
        ]
        for stream in self.streams:
            stream.load_state_dict(state or {"examples_seen": 0})

    def run(self, steps: int) -> list[int]:
        """The questions of so many global batches, in order; then the job is gone."""
        seen = [number for _ in range(steps) for stream in self.streams for number in asked(next(stream))]
        for stream in self.streams:
            stream.close()
        return seen


@pytest.mark.parametrize("readers", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", WORLDS)
def test_one_order_for_any_number_of_ranks_and_readers(many: ShardSet, world_size: int, readers: int) -> None:
    """Five batches are an epoch and a quarter."""
    seen = Team(many, world_size, readers).run(5)
    assert seen == Team(many, 1, 0).run(5)
    assert sorted(seen[:98]) == list(range(98))


def test_killed_at_twenty_random_steps_on_changing_numbers_of_ranks(many: ShardSet) -> None:
    """No question is lost or asked twice in an epoch, and the order is that of the undisturbed run."""
    random = np.random.default_rng(7)
    undisturbed = Team(many, 1, 0).run(100)
    state, seen, worlds = {"examples_seen": 0}, [], []
    for _ in range(20):
        worlds.append(int(random.choice(WORLDS)))
        team = Team(many, worlds[-1], int(random.integers(4)), json.loads(json.dumps(state)))
        seen += team.run(int(random.integers(1, 6)))
        states = [stream.state_dict() for stream in team.streams]
        assert states == [states[0]] * worlds[-1] == [{"examples_seen": len(seen)}] * worlds[-1]
        state = states[0]
    assert set(worlds) == set(WORLDS)
    assert seen == undisturbed[: len(seen)]
    epochs = len(seen) // 98
    assert epochs > 8
    for epoch in range(epochs):
        assert sorted(seen[98 * epoch : 98 * (epoch + 1)]) == list(range(98))


def test_another_global_batch_continues_too(many: ShardSet) -> None:
    """The position counts examples and not steps: none is lost or repeated, only the batches are cut elsewhere."""
    undisturbed = Team(many, 1, 0).run(8)
    stream = TrainStream(many, batch_size=7, seed=4)
    stream.load_state_dict({"examples_seen": 24})
    seen = list(chain.from_iterable(map(asked, islice(stream, 12))))
    stream.close()
    assert seen == undisturbed[24 : 24 + 84]
