"""How far two sets of questions differ in the answers of a question type, and what words of one the other has."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from adaptive_ft.data.sources.prior_shift import Asked

Priors = dict[str, Counter[str]]
"""How often each answer is given, by question type."""


@dataclass(frozen=True)
class PriorDistance:
    """`mean` is over the questions whose type the other set has (0 equal, 1 no answer in common, None for no such
    question); `unknown` counts the questions of other types."""

    mean: float | None
    unknown: int


def answer_priors(questions: Iterable[Asked]) -> Priors:
    """The answers of each question type."""
    priors: Priors = defaultdict(Counter)
    for question in questions:
        priors[question.question_type][question.answer] += 1
    return dict(priors)


def prior_distance(training: Priors, judged: Priors) -> PriorDistance:
    """The total variation distance of the answers, sum_t n_t TV_t / sum_t n_t over question types t.

    TV_t = 1/2 sum_a |p_t(a) - q_t(a)|, with the shares p_t in `training` and q_t in `judged`, and n_t questions in
    `judged`. Two draws from one distribution differ too, the more the fewer questions there are: compare.
    """
    known = {name: answers for name, answers in judged.items() if name in training}
    total = sum(answers.total() for answers in known.values())
    weighted = sum(answers.total() * _total_variation(training[name], answers) for name, answers in known.items())
    unknown = sum(answers.total() for name, answers in judged.items() if name not in training)
    return PriorDistance(weighted / total if total else None, unknown)


def _total_variation(one: Counter[str], other: Counter[str]) -> float:
    names = dict.fromkeys([*one, *other])  # in one order: the sum must not depend on how texts are hashed
    return 0.5 * sum(abs(one[name] / one.total() - other[name] / other.total()) for name in names)


def words_covered(training: Iterable[Asked], judged: Iterable[Asked]) -> float:
    """The share of the different words in questions and answers of `judged` that `training` has too."""
    known = {word for question in training for word in question.words}
    words = {word for question in judged for word in question.words}
    return len(words & known) / max(1, len(words))
