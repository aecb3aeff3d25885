"""How near an epoch's order comes to a full permutation, on a set of the size of VQA v2's training split.

    python -m pytest tests/data/reading/test_shuffle_quality.py -s      prints the table of docs/data.md

Windows of 16 shards mix within the window only, so that few shards are read at a time. What it costs is measured here:
the rank correlation of neighbouring epochs and of the stored order, and how many pairs of questions of one image meet
in a batch. Shapes: E examples in the epoch's order.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_ft.data.reading.order import WINDOW_SHARDS, epoch_order

IMAGES, IMAGES_PER_SHARD, BATCH = 82_783, 1000, 256
QUESTIONS = 443_757


@pytest.fixture(scope="module")
def image_E() -> NDArray[np.int64]:
    """The image of each of 443,757 questions: 3 or more for each image, as in VQA v2."""
    more = np.random.default_rng(0).integers(0, IMAGES, QUESTIONS - 3 * IMAGES)
    return np.repeat(np.arange(IMAGES), 3 + np.bincount(more, minlength=IMAGES))


def order_of(image_E: NDArray[np.int64], epoch: int, window_shards: int) -> NDArray[np.int64]:
    counts = np.bincount(image_E // IMAGES_PER_SHARD)
    return epoch_order(counts.tolist(), seed=1, epoch=epoch, window_shards=window_shards)


def rank_correlation(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Spearman's, between the places that examples have in two orders."""
    return float(np.corrcoef(np.argsort(one), np.argsort(other))[0, 1])


def meeting_pairs(image_E: NDArray[np.int64], order_E: NDArray[np.int64]) -> float:
    """Mean number, per batch, of pairs of questions about one image."""
    batches = len(order_E) // BATCH
    images = np.sort(image_E[order_E[: batches * BATCH]].reshape(batches, BATCH), axis=1)
    pairs = 0
    for lag in range(1, 12):  # no image has more than a dozen questions in one batch
        pairs += int((images[:, lag:] == images[:, :-lag]).sum())
    return pairs / batches


def test_an_epoch_is_nearly_as_mixed_as_a_full_permutation(image_E: NDArray[np.int64]) -> None:
    """Uncorrelated like one; and, as computed, only the pairs meet more often, by shards / window shards."""
    stored = np.arange(len(image_E))
    windows = -(-IMAGES // IMAGES_PER_SHARD) / WINDOW_SHARDS
    found = {}
    for name, window_shards in (("windows of 16 shards", WINDOW_SHARDS), ("full permutation", 10**6)):
        one, two = (order_of(image_E, epoch, window_shards) for epoch in (0, 1))
        correlations = rank_correlation(stored, one), rank_correlation(one, two)
        found[name] = (*correlations, meeting_pairs(image_E, one))
        print(f"| {name} | {correlations[0]:+.3f} | {correlations[1]:+.3f} | {found[name][2]:.2f} |")
    ours, full = found.values()
    assert max(map(abs, full[:2])) < 0.01
    assert max(map(abs, ours[:2])) < 0.35  # 83 shards are few: two orders of 83 things differ from 0 by 0.11 (1 sigma)
    assert ours[2] == pytest.approx(windows * full[2], rel=0.15)
    assert ours[2] < 0.02 * BATCH


def test_few_shards_are_mixed_fully(image_E: NDArray[np.int64]) -> None:
    small = image_E[image_E < WINDOW_SHARDS * IMAGES_PER_SHARD]
    one, full = order_of(small, 0, WINDOW_SHARDS), order_of(small, 0, 10**6)
    np.testing.assert_array_equal(one, full)
