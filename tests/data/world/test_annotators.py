"""Annotators: mostly right, sensibly wrong, and never outside the answer table."""

from collections import Counter

import numpy as np
import pytest

from adaptive_ft.data.answers import process_answer, soft_scores
from adaptive_ft.data.world.annotators import ANSWER_TABLE, CONFUSIONS, NUM_ANNOTATORS, SYNONYMS, annotate
from adaptive_ft.data.world.questions import TEMPLATES

TRUE_ANSWERS = sorted({answer for template in TEMPLATES for answer in template.answers})


@pytest.mark.parametrize("truth", TRUE_ANSWERS)
def test_the_majority_is_right_and_all_answers_are_in_the_table(truth: str) -> None:
    rng, right = np.random.default_rng(0), 0
    for _ in range(100):
        answers = annotate(truth, 0.06, rng)
        assert len(answers) == NUM_ANNOTATORS
        processed = Counter(process_answer(answer) for answer in answers)
        assert set(processed) <= set(ANSWER_TABLE)
        right += processed.most_common(1)[0][0] == truth
    assert right >= 95


def test_the_rate_of_errors_is_the_one_asked_for() -> None:
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(2000):
        wrong += sum(process_answer(answer) != "blue" for answer in annotate("blue", 0.1, rng))
    assert abs(wrong / (2000 * NUM_ANNOTATORS) - 0.1) < 0.01


def test_disagreement_gives_soft_scores() -> None:
    rng = np.random.default_rng(2)
    scores = [soft_scores(annotate("large", 0.06, rng)) for _ in range(200)]
    assert sum(len(score) > 1 for score in scores) > 100
    assert sum("big" in score for score in scores) > 80
    assert np.mean([score["large"] for score in scores]) > 0.97


def test_people_spell_in_their_own_ways() -> None:
    rng = np.random.default_rng(3)
    raw = {answer for _ in range(100) for answer in annotate("2", 0.0, rng)}
    assert raw == {"2", "2.", "two"}


def test_confusions_stay_within_the_kind_of_answer() -> None:
    assert set(CONFUSIONS) == set(TRUE_ANSWERS)
    kinds = [set(template.answers) for template in TEMPLATES]
    for truth, wrong in CONFUSIONS.items():
        assert truth not in wrong
        assert any({truth, *wrong} <= kind for kind in kinds)
    assert len(set(ANSWER_TABLE)) == len(ANSWER_TABLE)
    assert all(process_answer(answer) == answer for answer in (*ANSWER_TABLE, *SYNONYMS))
