"""The plan: which samples of a column are tuned, and whose gate gradient is evaluated."""

import pytest
import torch

from adaptive_ft_kernels import Draws, FaultyGates, plan_gates


def test_order_puts_frozen_samples_first_and_keeps_the_batch_order() -> None:
    gates = torch.rand(200, 2).round()
    plan = plan_gates(gates)
    for column, order in enumerate(plan.order_CB.tolist()):
        assert order == sorted(range(200), key=lambda sample: (gates[sample, column].item(), sample))
    assert torch.equal(plan.num_frozen_C, (gates == 0).sum(0).int())
    assert plan.num_faulty == 0


def test_columns_of_a_plan_are_the_plan_of_the_columns() -> None:
    gates = torch.rand(6, 10).round()
    part, alone = plan_gates(gates).columns(3, 7), plan_gates(gates[:, 3:7])
    assert torch.equal(part.order_CB, alone.order_CB)
    assert torch.equal(part.num_frozen_C, alone.num_frozen_C)
    assert torch.equal(part.sampled_CM, alone.sampled_CM)
    assert (part.batch, part.num_components) == (6, 4)


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_constant_plan_is_that_of_constant_gates(gate: float) -> None:
    """Also made from a plan that evaluates a share of the gate gradients."""
    drawn = plan_gates(torch.rand(6, 10).round(), gate_grad_fraction=0.5, draws=Draws(3))
    constant, planned = drawn.constant(gate), plan_gates(torch.full((6, 10), gate))
    for name in ("order_CB", "num_frozen_C", "sampled_CM", "num_faulty"):
        found, expected = getattr(constant, name), getattr(planned, name)
        assert torch.equal(found, expected), name
        assert found.dtype == expected.dtype, name
    assert constant.batch == 6


def test_all_gate_gradients_are_evaluated_unless_a_share_is_asked_for() -> None:
    plan = plan_gates(torch.rand(6, 3).round())
    assert torch.equal(plan.sampled_CM.sort(dim=1).values, torch.arange(6).int().expand(3, 6))


def test_a_share_of_the_samples_comes_from_the_draws() -> None:
    plan = plan_gates(torch.zeros(9, 40), gate_grad_fraction=0.25, draws=Draws(3))
    assert torch.equal(plan.sampled_CM, Draws(3).samples(9, 40, 0.25, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"gate_grad_fraction is 0\.25: give the draws"):
        plan_gates(torch.zeros(9, 40), gate_grad_fraction=0.25)


def test_a_plan_has_shapes_without_values() -> None:
    plan = plan_gates(torch.zeros(4, 3, device="meta"))
    assert plan.order_CB.shape == (3, 4)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_refuses_a_share_outside_zero_and_one(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"gate_grad_fraction is .*above 0 and is at most 1"):
        plan_gates(torch.zeros(3, 4), gate_grad_fraction=fraction)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf")])
def test_refuses_soft_gates_by_place_and_value(value: float) -> None:
    gates = torch.zeros(3, 4)
    gates[2, 1] = value
    with pytest.raises(FaultyGates, match=f"exactly 0 .* or 1 .*sample 2, column 1 is {value}"):
        plan_gates(gates)


def test_refuses_gates_that_are_no_table() -> None:
    with pytest.raises(ValueError, match=r"\[samples, components\], got \[3\]"):
        plan_gates(torch.zeros(3))


def test_an_empty_batch_has_a_plan() -> None:
    plan = plan_gates(torch.zeros(0, 3))
    assert plan.order_CB.shape == plan.sampled_CM.shape == (3, 0)
    assert plan.num_frozen_C.tolist() == [0, 0, 0]
