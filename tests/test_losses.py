"""The policy losses: values, slopes, and which decisions count."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_ft.errors import UserError
from adaptive_ft.losses import (
    PolicyLossConfig,
    binary_entropy,
    budget_hinge,
    budget_squared,
    deterministic,
    policy_losses,
    tuned_share,
)

ALL_ON = PolicyLossConfig(
    constrain_k_scale=2.0,
    constrain_k=1.0,
    deterministic_scale=3.0,
    binary_entropy_scale=5.0,
    budget_scale=7.0,
    budget=0.25,
)


def test_all_losses_on_a_batch_done_by_hand() -> None:
    gates_BD = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    losses = policy_losses(gates_BD, ALL_ON)
    half = 0.5 * math.log(2)
    assert losses["constrain_k"].item() == pytest.approx(2 * (1.5 - 1) ** 2)
    assert losses["deterministic"].item() == pytest.approx(3 * half, abs=1e-7)
    assert losses["binary_entropy"].item() == pytest.approx(5 * 2 * half, abs=1e-6)
    assert losses["budget"].item() == pytest.approx(7 * (0.75 - 0.25))


def test_slopes_of_the_originals_one_sided_entropy() -> None:
    fraction_L = torch.tensor([0.0, math.exp(-1), 1.0], dtype=torch.float64, requires_grad=True)
    (slopes_L,) = torch.autograd.grad(deterministic(fraction_L), fraction_L)
    assert slopes_L.tolist() == pytest.approx([19.72, 0.0, -1.0], abs=0.01)


def test_binary_entropy_is_symmetric() -> None:
    fraction_L = torch.tensor([0.2, 0.8], dtype=torch.float64, requires_grad=True)
    (slopes_L,) = torch.autograd.grad(binary_entropy(fraction_L), fraction_L)
    assert slopes_L[0].item() == pytest.approx(-slopes_L[1].item())
    assert slopes_L[0].item() > 0


@pytest.mark.parametrize(
    ("share", "hinge", "slope"), [(0.2, 0.0, 0.0), (0.75, 0.25, 1.0)], ids=["below the budget", "above it"]
)
def test_the_hinge_charges_what_is_above_the_budget(share: float, hinge: float, slope: float) -> None:
    found = torch.tensor(share, requires_grad=True)
    loss = budget_hinge(found, 0.5)
    assert loss.item() == hinge
    assert torch.autograd.grad(loss, found)[0].item() == slope


def test_the_squared_budget_pulls_from_both_sides() -> None:
    share = torch.tensor([0.25, 0.5, 0.75], requires_grad=True)
    loss = budget_squared(share, 0.5)
    assert loss.tolist() == [0.0625, 0.0, 0.0625]
    assert torch.autograd.grad(loss.sum(), share)[0].tolist() == [-0.5, 0.0, 0.5]


def test_the_budget_counts_live_components() -> None:
    """A decision over three components weighs three times as much as one over a single one, a dead one nothing."""
    gates_BD = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    config = PolicyLossConfig(budget_scale=2.0, budget=0.25, budget_form="squared")
    loss = policy_losses(gates_BD, config, (3, 1, 0))["budget"]
    assert loss.item() == pytest.approx(2 * (0.875 - 0.25) ** 2)
    (slopes_BD,) = torch.autograd.grad(loss, gates_BD)
    torch.testing.assert_close(slopes_BD[0] / slopes_BD[0, 1], torch.tensor([3.0, 1.0, 0.0]))
    assert tuned_share(torch.tensor([0.5, 0.25]), (3, 1)).item() == pytest.approx(1.75 / 4)


def test_dead_decisions_do_not_count() -> None:
    live_only = torch.tensor([[1.0], [0.0]])
    with_dead = torch.tensor([[1.0, 1.0], [0.0, 1.0]], requires_grad=True)
    losses = policy_losses(with_dead, ALL_ON, (1, 0))
    assert losses == policy_losses(live_only, ALL_ON)
    (slopes_BD,) = torch.autograd.grad(torch.stack([*losses.values()]).sum(), with_dead)
    assert torch.equal(slopes_BD[:, 1], torch.zeros(2))


def test_statistics_are_those_of_all_ranks() -> None:
    ranks = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])]

    def mean_over_ranks(local_L: Tensor) -> Tensor:
        return torch.stack([gates_BD.mean(dim=0) for gates_BD in ranks]).mean(dim=0)

    whole = policy_losses(torch.cat(ranks), ALL_ON)
    for gates_BD in ranks:
        assert policy_losses(gates_BD, ALL_ON, None, mean_over_ranks) == whole


def test_off_by_default_and_without_decisions() -> None:
    assert policy_losses(torch.ones(2, 3), PolicyLossConfig()) == {}
    assert policy_losses(torch.ones(2, 0), ALL_ON, ()) == {}


@pytest.mark.parametrize("options", [{"budget": 1.5}, {"constrain_k_scale": -1.0}, {"budget_form": "cubic"}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        PolicyLossConfig(**options)
