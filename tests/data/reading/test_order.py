"""The order of training examples: every example once per epoch, a function of (seed, epoch) and nothing else."""

import numpy as np
import pytest

from adaptive_ft.data.reading.order import EndlessOrder, epoch_order, evaluation_slice

COUNTS = [3, 1, 7, 2, 5]


@pytest.mark.parametrize("window", [1, 2, 16])
def test_each_example_once_per_epoch(window: int) -> None:
    for epoch in range(3):
        order = epoch_order(COUNTS, seed=1, epoch=epoch, window_shards=window)
        assert sorted(order) == list(range(18))


def test_it_depends_on_seed_and_epoch_only() -> None:
    first = epoch_order(COUNTS, seed=1, epoch=0)
    np.testing.assert_array_equal(first, epoch_order(COUNTS, seed=1, epoch=0))
    assert (first != epoch_order(COUNTS, seed=1, epoch=1)).any()
    assert (first != epoch_order(COUNTS, seed=2, epoch=0)).any()


def test_the_order_of_a_seed_never_changes() -> None:
    # A checkpoint's position means nothing if a library update reorders the epoch.
    assert epoch_order([3, 2, 4], seed=7, epoch=2).tolist() == [3, 4, 5, 1, 8, 2, 7, 0, 6]


def test_a_window_mixes_its_shards_only() -> None:
    shard_of = np.repeat(np.arange(5), COUNTS)
    order = shard_of[epoch_order(COUNTS, seed=3, epoch=0, window_shards=2)]
    first_seen = list(dict.fromkeys(order.tolist()))
    for window in range(0, 5, 2):
        members = first_seen[window : window + 2]
        places = np.flatnonzero(np.isin(order, members))
        assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))


def test_positions_run_over_endless_epochs() -> None:
    epochs = [epoch_order(COUNTS, seed=5, epoch=epoch) for epoch in range(4)]
    endless = np.concatenate(epochs)
    order = EndlessOrder(COUNTS, seed=5)
    np.testing.assert_array_equal(order.examples(10, 70), endless[10:70])
    np.testing.assert_array_equal(order.examples(0, 5), endless[:5])
    np.testing.assert_array_equal(order.examples(30, 40), endless[30:40])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("examples", [1, 3, 18])
def test_evaluation_slices_cover_everything_once(examples: int, world_size: int) -> None:
    slices = [evaluation_slice(examples, rank, world_size) for rank in range(world_size)]
    assert [example for part in slices for example in part] == list(range(examples))
