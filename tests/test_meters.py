"""Means weighted by examples, merged over ranks, and carried through a checkpoint."""

import math

import pytest
import torch
from torch import Tensor

from adaptive_ft.meters import MeanMeter


def values(loss: float, score: float) -> dict[str, Tensor]:
    return {"loss": torch.tensor(loss), "score": torch.tensor(score)}


def test_means_weigh_by_examples() -> None:
    """1 example of loss 1 and 3 of loss 5 make 4, in float64 whatever came in."""
    meter = MeanMeter()
    meter.update(values(1.0, 0.0), 1)
    meter.update(values(5.0, 1.0), 3)
    assert meter.means() == {"loss": 4.0, "score": 0.75}


def test_before_anything_there_are_no_means() -> None:
    """An empty meter is no error."""
    assert MeanMeter().means() == {}


def test_half_precision_is_summed_in_double() -> None:
    """A thousand bfloat16 values of 1 sum to 1000, which bfloat16 itself would lose."""
    meter = MeanMeter()
    for _ in range(1000):
        meter.update({"loss": torch.tensor(1.0, dtype=torch.bfloat16)}, 1)
    assert meter.means() == {"loss": 1.0}


def test_reduce_is_the_mean_over_all_examples() -> None:
    """Two ranks of unequal counts: the sums are added, not the means averaged."""
    ranks = [MeanMeter(), MeanMeter()]
    ranks[0].update(values(1.0, 0.0), 1)
    ranks[1].update(values(5.0, 1.0), 3)
    other = ranks[1].state_dict()["sums"]
    ranks[0].reduce(lambda mine: mine + torch.tensor(other, dtype=torch.float64))
    assert ranks[0].means() == {"loss": 4.0, "score": 0.75}


@pytest.mark.parametrize("keep", [True, False])
def test_settle_moves_the_sums_to_one_rank(keep: bool) -> None:
    """The keeper holds everything, the others start from nothing and may go on."""
    meter = MeanMeter()
    meter.update(values(2.0, 1.0), 2)
    meter.settle(lambda mine: 2 * mine, keep)
    assert meter.state_dict()["sums"] == ([8.0, 4.0, 4.0] if keep else [0.0, 0.0, 0.0])
    assert keep or all(math.isnan(mean) for mean in meter.means().values())
    meter.update(values(6.0, 0.0), 4)
    assert meter.means()["loss"] == ((8 + 24) / 8 if keep else 6.0)


def test_a_saved_meter_goes_on() -> None:
    """Half the updates, a state_dict, the other half: the same means as in one go."""
    whole, first, second = MeanMeter(), MeanMeter(), MeanMeter()
    for meter in (whole, first):
        meter.update(values(0.1, 0.3), 3)
    second.load_state_dict(first.state_dict())
    for meter in (whole, second):
        meter.update(values(0.7, 0.9), 2)
    assert second.means() == whole.means()


def test_an_empty_meter_saves_and_loads() -> None:
    """A checkpoint right after an epoch holds empty meters."""
    meter = MeanMeter()
    meter.load_state_dict(MeanMeter().state_dict())
    meter.update(values(1.0, 1.0), 1)
    assert meter.means() == {"loss": 1.0, "score": 1.0}


def test_a_cleared_meter_sums_with_one_that_was_loaded() -> None:
    """Of a resumed run rank 0 alone keeps the sums; what the ranks add up has one shape before the first update."""
    saved = MeanMeter()
    saved.update(values(2.0, 1.0), 3)
    main, other = MeanMeter(), MeanMeter()
    for meter in (main, other):
        meter.load_state_dict(saved.state_dict())
    other.clear()
    main.reduce(lambda mine: mine + torch.tensor(other.state_dict()["sums"]))
    assert main.means() == saved.means() == {"loss": 2.0, "score": 1.0}
