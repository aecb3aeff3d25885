"""Draws of samples: without repetition, equally often, repeatable, and apart from torch's own generator."""

import pytest
import torch

from adaptive_ft_kernels import Draws

CPU = torch.device("cpu")


@pytest.mark.parametrize(("batch", "fraction", "expected"), [(8, 0.25, 2), (9, 0.25, 3), (1, 0.1, 1), (5, 0.9, 5)])
def test_a_share_is_drawn_without_repetition_in_rising_order(batch: int, fraction: float, expected: int) -> None:
    drawn = Draws().samples(batch, 40, fraction, CPU)
    assert drawn.shape == (40, expected)
    assert drawn.dtype == torch.int32
    assert all(row == sorted(set(row)) and set(row) <= set(range(batch)) for row in drawn.tolist())


def test_every_sample_and_every_pair_is_drawn_equally_often() -> None:
    drawn = Draws(7).samples(4, 6000, 0.5, CPU)
    of_samples = drawn.flatten().bincount(minlength=4) / 12000
    assert (of_samples - 1 / 4).abs().max() < 0.02
    of_pairs = torch.tensor(
        [drawn.eq(torch.tensor(pair)).all(1).float().mean() for pair in torch.combinations(torch.arange(4)).tolist()]
    )
    assert (of_pairs - 1 / 6).abs().max() < 0.024  # five standard deviations: 5 sqrt(5/36 / 6000)


def test_neighbouring_steps_seeds_and_components_have_nothing_in_common() -> None:
    draws = Draws(0)
    first, second = (draws.samples(64, 200, 0.25, CPU) for _ in range(2))
    other = Draws(1).samples(64, 200, 0.25, CPU)
    for here, there in ((first, second), (first, other), (first[1:], first[:-1]), (second, other)):
        shared = torch.tensor([len(set(a) & set(b)) for a, b in zip(here.tolist(), there.tolist(), strict=True)])
        assert abs(shared.float().mean() - 4) < 0.6  # 16 of 64 twice: 4 in common, standard deviation 1.5 / sqrt(200)


def test_a_seed_starts_the_same_draws_anew() -> None:
    draws = Draws(3)
    first = [draws.samples(16, 5, 0.25, CPU).tolist() for _ in range(3)]
    assert first[0] != first[1] != first[2]
    draws.seed(3)
    assert [draws.samples(16, 5, 0.25, CPU).tolist() for _ in range(3)] == first
    assert Draws(4).samples(16, 5, 0.25, CPU).tolist() != first[0]


def test_torch_does_not_notice() -> None:
    before = torch.get_rng_state()
    Draws(2**63 + 5).samples(16, 5, 0.25, CPU)
    assert torch.equal(torch.get_rng_state(), before)
