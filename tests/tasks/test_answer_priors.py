"""The baseline that knows types of questions and nothing else."""

import pytest

from adaptive_ft.data.records import Question
from adaptive_ft.tasks.answer_priors import answer_priors


def asked(question_type: str, **scores: float) -> Question:
    return Question(1, "?", question_type, "other", (), scores)


TRAINING = [
    asked("how many", two=1.0, one=0.3),
    asked("how many", one=0.9),
    asked("how many", one=0.3, two=0.3),
    *[asked("is", yes=1.0)] * 3,
    asked("empty"),
]


def test_every_type_gets_the_answer_with_the_highest_sum() -> None:
    """one has 1.5, two 1.3, though two is right more often outright."""
    priors = answer_priors(TRAINING)
    assert priors.by_type == {"how many": "one", "is": "yes"}
    assert priors.score([asked("how many", one=0.6), asked("is", no=1.0)]) == pytest.approx(0.3)


def test_an_unknown_type_gets_the_answer_of_all() -> None:
    assert answer_priors(TRAINING).score([asked("where", yes=0.5), asked("empty", yes=1.0)]) == pytest.approx(0.75)


def test_nothing_has_no_priors() -> None:
    with pytest.raises(ValueError, match="need questions with answers"):
        answer_priors([asked("is")])
    with pytest.raises(ValueError, match="judged on questions"):
        answer_priors(TRAINING).score([])
