"""The distance of answer priors, counted by hand."""

import pytest

from adaptive_ft.data.sources.prior_distance import PriorDistance, answer_priors, prior_distance, words_covered
from adaptive_ft.data.sources.prior_shift import Asked


def of_groups(**counts: int) -> list[Asked]:
    """Questions of the groups TYPE_ANSWER."""
    return [
        Asked(number, "a", (name.partition("_")[0], name.partition("_")[2]), tuple(name.split("_")))
        for name, count in counts.items()
        for number in range(count)
    ]


def test_the_distance_is_weighted_by_the_questions_that_are_judged() -> None:
    """is: (.8, .2) against (.2, .8) is .6, with 10 questions; what: nothing in common is 1, with 30; who is unknown."""
    training = answer_priors(of_groups(is_yes=8, is_no=2, what_red=3))
    judged = answer_priors(of_groups(is_yes=2, is_no=8, what_blue=30, who_he=4))
    found = prior_distance(training, judged)
    assert found.mean == pytest.approx((10 * 0.6 + 30 * 1.0) / 40)
    assert found.unknown == 4


def test_equal_shares_are_no_distance_whatever_the_sizes() -> None:
    training, judged = (answer_priors(of_groups(is_yes=3 * size, is_no=size)) for size in (1, 5))
    assert prior_distance(training, judged) == PriorDistance(0.0, 0)


def test_without_a_common_type_there_is_no_distance() -> None:
    assert prior_distance(answer_priors(of_groups(is_yes=1)), answer_priors(of_groups(who_he=2))) == PriorDistance(
        None, 2
    )


def test_words_are_counted_once_each() -> None:
    assert words_covered(of_groups(is_yes=1), of_groups(is_no=9, is_yes=1)) == pytest.approx(2 / 3)
