"""Retention, transfer, flow and centre of mass of small matrices worked out by hand."""

import numpy as np
import pytest

from adaptive_ft.analysis.retention import centre_of_mass, flow, forgetting, retention, transfer

STIR = np.array([[0.9, 0.3, 0.2], [0.8, 0.8, 0.1], [0.4, 0.6, 0.5]])
RANDOM = np.array([[0.1, 0.1, 0.2], [0.2, 0.2, 0.2], [0.5, 0.2, 0.3]])


def test_retention_and_forgetting_are_the_diagonal() -> None:
    assert retention(STIR).tolist() == [0.9, 0.8, 0.5]
    assert forgetting(STIR) == pytest.approx([0.1, 0.2, 0.5])


def test_transfer_keeps_both_terms() -> None:
    found = transfer(STIR, RANDOM)
    assert found.transferred == pytest.approx([0.8, 0.6, 0.2])
    assert (found.fine_tuned.tolist(), found.control.tolist()) == ([0.9, 0.8, 0.5], [0.1, 0.2, 0.3])


def test_flow_takes_the_first_of_equals() -> None:
    found = flow(STIR)
    assert (found.strongest.tolist(), found.shift.tolist()) == ([0, 0, 1], [0, -1, -1])


def test_flow_leaves_the_final_norm_out() -> None:
    assert flow(np.array([[0.1, 0.2, 0.9], [0.3, 0.2, 0.9], [0.1, 0.2, 0.9]]), blocks=2).strongest.tolist() == [1, 0]


def test_centre_of_mass_weighs_what_is_above_a_random_model() -> None:
    found = centre_of_mass(STIR, RANDOM)
    assert found == pytest.approx([0.2 / 1.0, 0.6 / 1.2, (0.4 + 2 * 0.2) / 0.6])
    assert np.isnan(centre_of_mass(RANDOM, RANDOM)).all()


def test_matrices_without_a_diagonal_and_without_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no diagonal"):
        retention(STIR[:2])
    with pytest.raises(ValueError, match="no numbers"):
        flow(np.where(STIR > 0.85, np.nan, STIR))
