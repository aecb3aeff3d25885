"""Pieces: which samples of which components are computed together."""

import torch
from torch import Tensor

from adaptive_ft_kernels.torch_path.partition import partition
from adaptive_ft_kernels.torch_path.pieces import Piece, pieces


def pieces_of(gates_BC: Tensor) -> tuple[Piece, ...]:
    order_CB, num_frozen_C, _ = partition(gates_BC)
    return pieces(order_CB, num_frozen_C)


def test_they_cover_every_pair_once_with_the_right_weights() -> None:
    gates = torch.rand(7, 9).round() * (torch.arange(9) % 3 != 0)
    covered = torch.full((7, 9), -1.0)
    for piece in pieces_of(gates):
        samples = torch.arange(7) if piece.samples is None else piece.samples
        assert (covered[samples, piece.start : piece.stop] == -1).all()
        covered[samples, piece.start : piece.stop] = float(piece.tuned)
    assert torch.equal(covered, gates)


def test_equal_neighbours_go_together_and_nothing_is_gathered_where_all_samples_agree() -> None:
    gates = torch.tensor([[0.0, 0, 1, 1, 1], [0, 0, 1, 0, 0]])
    found = [
        (piece.start, piece.stop, piece.tuned, None if piece.samples is None else piece.samples.tolist())
        for piece in pieces_of(gates)
    ]
    assert found == [(0, 2, False, None), (2, 3, True, None), (3, 5, False, [1]), (3, 5, True, [0])]


def test_an_empty_batch_is_one_frozen_piece() -> None:
    (piece,) = pieces_of(torch.zeros(0, 3))
    assert (piece.start, piece.stop, piece.tuned, piece.samples) == (0, 3, False, None)
