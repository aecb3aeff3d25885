"""Predicted and true changes of the loss: correlations that a second count confirms, kinds by what a decision rules."""

import dataclasses

import numpy as np
import pytest
from transformers import LxmertConfig, LxmertModel

from adaptive_ft.analysis.flip_picture import correlations, predicted_and_true
from adaptive_ft.analysis.flips import Flips, agreement, kinds_of
from adaptive_ft.analysis.rank_correlation import mean_ranks
from adaptive_ft.components import ComponentMap
from adaptive_ft.models import describe
from adaptive_ft.strategies import tie


@pytest.fixture(scope="module")
def components() -> ComponentMap:
    """Those of an LXMERT of one layer of each kind, whose last cross layer has dead ones."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    config = LxmertConfig(**sizes, l_layers=1, r_layers=1, x_layers=1, visual_feat_dim=4)
    return describe(LxmertModel(config)).components


@pytest.fixture
def flips() -> Flips:
    gates, gradient = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[0.5, 0.25], [-2.0, 1.0]])
    change = np.array([[0.25, -0.5], [1.0, 0.125]])
    return Flips([7, 9], ["a", "b"], ["head", "FFN in"], np.array([1.0, 2.0]), gates, gradient, change)


def test_a_flip_is_predicted_in_the_direction_it_takes(flips: Flips) -> None:
    """Upwards from a frozen component, downwards from a tuned one."""
    assert flips.changes["predicted"].tolist() == [[0.5, -0.25], [2.0, -1.0]]
    assert [(line["question_id"], line["decision"], line["predicted_change"]) for line in flips.lines()] == [
        (7, "a", 0.5), (7, "b", -0.25), (9, "a", 2.0), (9, "b", -1.0)
    ]  # fmt: skip


def test_each_kind_is_judged_by_its_own_pairs(flips: Flips) -> None:
    ((ways, found),) = flips.agreements().items()
    assert ways == ("predicted", "true")
    assert {kind: told.pairs for kind, told in found.items()} == {"all": 4, "head": 2, "FFN in": 2}
    assert found["all"].pearson == pytest.approx(np.corrcoef([0.5, -0.25, 2, -1], [0.25, -0.5, 1, 0.125])[0, 1])
    assert (found["head"].pearson, found["FFN in"].pearson) == (pytest.approx(1), pytest.approx(-1))
    assert (found["head"].same_sign, found["FFN in"].same_sign) == (1.0, 0.5)
    assert flips.summary()["tuned_share"] == 0.75


def test_the_original_gradient_is_held_against_both(flips: Flips) -> None:
    """Every two of three, in the summary, in the lines and in a second row of panels."""
    both = dataclasses.replace(flips, two_branch_ND=2 * flips.gradient_ND)
    told = both.summary()["agreement"]
    assert list(told) == ["predicted_two_branch", "predicted_true", "two_branch_true"]
    assert told["predicted_two_branch"]["all"]["pearson"] == pytest.approx(1)
    assert told["two_branch_true"] == {kind: pytest.approx(found) for kind, found in told["predicted_true"].items()}
    assert [line["two_branch_change"] for line in both.lines()] == [1.0, -0.5, 4.0, -2.0]
    assert len(predicted_and_true(both).axes) == 4


def test_equal_numbers_share_their_rank() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 5, (2, 40)).astype(float)
    expected = np.corrcoef(*mean_ranks(np.stack([x, y])))[0, 1]
    assert agreement(x[None], y[None]).spearman == pytest.approx(expected)


def test_samples_of_larger_losses_do_not_pass_for_agreement() -> None:
    """Both sides are larger for the second sample, in opposite orders: all pairs agree, the decisions of none do."""
    first = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [0.0, 0.0, 0.0]])
    found = agreement(first, np.array([[3.0, 2.0, 1.0], [20.0, 30.0, 10.0], [1.0, 2.0, -3.0]]))
    assert found.pearson is not None
    assert found.pearson > 0.5
    assert found.within == pytest.approx(-0.75)
    assert found.within_deviation == pytest.approx(np.std([-1.0, -0.5], ddof=1))
    assert found.same_sign == 1.0  # of the pairs that move at all


def test_a_side_that_never_changes_has_no_correlation() -> None:
    found = agreement(np.zeros((1, 3)), np.arange(3.0)[None])
    assert (found.pearson, found.spearman, found.within, found.same_sign) == (None, None, None, None)
    assert correlations(found) == "3 pairs: Pearson –, Spearman –; within a sample –"


@pytest.mark.parametrize(
    ("strategy", "kinds"),
    [
        ("spottune", {"head", "attention output", "FFN in", "FFN out"}),
        ("spottune_res", {"attention", "FFN"}),
        ("spottune_block", {"layer"}),
        ("standard", set()),
    ],
)
def test_the_kind_is_what_a_decision_rules(components: ComponentMap, strategy: str, kinds: set[str]) -> None:
    """One for every live decision."""
    tying = tie(strategy, components)
    found = kinds_of(tying, components)
    assert set(found) == kinds
    assert len(found) == sum(tying.live)


def test_every_pair_is_a_dot(flips: Flips) -> None:
    figure = predicted_and_true(flips)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["head", "FFN in"]
    dots = [np.asarray(axis.collections[0].get_offsets()).tolist() for axis in figure.axes]
    assert dots == [[[0.5, 0.25], [2.0, 1.0]], [[-0.25, -0.5], [-1.0, 0.125]]]
    figure.canvas.draw()
