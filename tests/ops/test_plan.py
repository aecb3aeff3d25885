"""The plan: which samples of which components are computed with which weights."""

import pytest
import torch

from adaptive_ft_kernels import plan_gates


def test_pieces_cover_every_pair_once_with_the_right_weights() -> None:
    gates = torch.rand(7, 9).round() * (torch.arange(9) % 3 != 0)
    covered = torch.full((7, 9), -1.0)
    for piece in plan_gates(gates).pieces:
        samples = torch.arange(7) if piece.samples is None else piece.samples
        assert (covered[samples, piece.start : piece.stop] == -1).all()
        covered[samples, piece.start : piece.stop] = float(piece.tuned)
    assert torch.equal(covered, gates)


def test_plan_joins_equal_neighbours_and_gathers_nothing_where_all_samples_agree() -> None:
    gates = torch.tensor([[0.0, 0, 1, 1, 1], [0, 0, 1, 0, 0]])
    pieces = [
        (piece.start, piece.stop, piece.tuned, None if piece.samples is None else piece.samples.tolist())
        for piece in plan_gates(gates).pieces
    ]
    assert pieces == [(0, 2, False, None), (2, 3, True, None), (3, 5, False, [1]), (3, 5, True, [0])]


def test_order_puts_frozen_samples_first_and_keeps_the_batch_order() -> None:
    gates = torch.rand(200, 2).round()
    plan = plan_gates(gates)
    for column, order in enumerate(plan.order_CB.tolist()):
        assert order == sorted(range(200), key=lambda sample: (gates[sample, column].item(), sample))


def test_columns_of_a_plan_are_the_plan_of_the_columns() -> None:
    gates = torch.rand(6, 10).round()
    part, alone = plan_gates(gates).columns(3, 7), plan_gates(gates[:, 3:7])
    assert torch.equal(part.order_CB, alone.order_CB)
    assert (part.batch, part.num_frozen, part.patterns) == (alone.batch, alone.num_frozen, alone.patterns)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf")])
def test_refuses_soft_gates_by_place_and_value(value: float) -> None:
    gates = torch.zeros(3, 4)
    gates[2, 1] = value
    with pytest.raises(ValueError, match=f"exactly 0 .* or 1 .*sample 2, column 1 is {value}"):
        plan_gates(gates)


def test_refuses_gates_that_are_no_table() -> None:
    with pytest.raises(ValueError, match=r"\[samples, components\], got \[3\]"):
        plan_gates(torch.zeros(3))


def test_an_empty_batch_is_one_frozen_piece() -> None:
    (piece,) = plan_gates(torch.zeros(0, 3)).pieces
    assert (piece.start, piece.stop, piece.tuned, piece.samples) == (0, 3, False, None)
