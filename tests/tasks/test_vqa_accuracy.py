"""The official accuracy against hand-made cases."""

import pytest

from adaptive_ft.data.answers import soft_scores
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.vqa_accuracy import (
    BEFORE_2021_03_11,
    CURRENT,
    AccuracyMeter,
    best_constant_answer,
    both_forms,
    official_accuracy,
)


def question(
    question_id: int, answers: list[str], kind: str = "other", scores: dict[str, float] | None = None
) -> Question:
    own = soft_scores(answers) if answers else {}
    return Question(question_id, "What?", "what", kind, tuple(answers), own if scores is None else scores)


def ten(matching: str, count: int) -> list[str]:
    """`count` humans say `matching`, the others something that nothing else equals."""
    return [matching] * count + [f"unlike {letter}" for letter in "bcdefghijk"[count:]]


@pytest.mark.parametrize(("count", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_accuracy_by_number_of_matching_humans(count: int, accuracy: float) -> None:
    assert official_accuracy("dog", ten("dog", count)) == accuracy


def test_unanimous_answers_are_compared_literally() -> None:
    assert official_accuracy("yes", ["yes"] * 10) == 1.0
    assert official_accuracy(" yes\n", ["\tyes"] * 10) == 1.0
    assert official_accuracy("Yes", ["yes"] * 10) == 0.0
    assert official_accuracy("the dog", ["the dog"] * 10) == 1.0
    assert official_accuracy("dog", ["the dog"] * 10) == 0.0
    assert official_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "human"),
    [
        ("t-shirt", "t shirt"),  # a mark inside a word becomes a space
        ("cat , dog", "cat dog"),  # next to a space it disappears
        ("black/white - red", "black/white red"),  # one loose mark does not loosen another
        ("1,000-2", "10002"),  # digit, comma, digit anywhere: every mark disappears
        ("5.", "5"),
        ("dr. who", "dr who"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("the a an", ""),
        ("dont know", "don't know"),
        ("somebody'd", "somebodyd"),
        ("a  b\tc", "b c"),
    ],
)
def test_normalised_answers_match(prediction: str, human: str) -> None:
    assert official_accuracy(prediction, ten(human, 4)) == 1.0
    assert official_accuracy(human, ten(prediction, 4)) == 1.0


@pytest.mark.parametrize(
    ("prediction", "human"),
    [
        (".5", "5"),  # a period before a digit stays
        ("2.5", "25"),
        ("eleven", "11"),
        ("12:30", "12 30"),  # colon, apostrophe and currency signs stay
        ("$5", "5"),
        ("Im", "I'm"),  # keys with capitals never match after lower-casing
        ("theme", "me"),  # articles are whole words
    ],
)
def test_answers_that_stay_different(prediction: str, human: str) -> None:
    assert official_accuracy(prediction, ten(human, 4)) == 0.0


def test_the_older_form_treats_the_two_sides_differently() -> None:
    """It normalised every prediction fully, the humans' answers by punctuation only if not unanimous."""
    assert official_accuracy("Yes", ["yes"] * 10, BEFORE_2021_03_11) == 1.0
    assert official_accuracy("two", ["two"] * 10, BEFORE_2021_03_11) == 0.0
    assert official_accuracy("two", ten("two", 4), BEFORE_2021_03_11) == 0.0
    assert official_accuracy("two", ten("two", 4), CURRENT) == 1.0
    assert official_accuracy("2", ten("2.", 4), BEFORE_2021_03_11) == 1.0


def test_both_forms_are_told_by_kind() -> None:
    questions = [
        Question(1, "how many?", "how many", "number", tuple(ten("two", 4)), {"2": 1.0}),
        Question(2, "is it?", "is it", "yes/no", tuple(ten("yes", 2)), {"yes": 0.6}),
    ]
    told = both_forms(questions, {1: "two", 2: "yes"})
    assert told["current"]["overall"] == {"num_questions": 2, "soft": 30.0, "official": 80.0}
    assert told["before-2021-03-11"]["overall"] == {"num_questions": 2, "soft": 30.0, "official": 30.0}
    assert told["current"]["by_answer_type"]["number"] == {"num_questions": 1, "soft": 0.0, "official": 100.0}
    assert told["before-2021-03-11"]["by_question_type"]["how many"]["official"] == 0.0
    with pytest.raises(KeyError):
        both_forms(questions, {1: "two"})


def test_other_numbers_of_humans_are_refused() -> None:
    with pytest.raises(ValueError, match="got 9"):
        official_accuracy("dog", ["dog"] * 9)


def test_meter_sums_by_type_and_merges_ranks() -> None:
    first, second = AccuracyMeter(), AccuracyMeter()
    yes = question(1, ["yes"] * 10, "yes/no")
    dog = question(2, ten("dog", 3), "other")
    cat = question(3, ten("cat", 1), "other")
    first.update([yes, dog], ["yes", "dog"], [1.0, 0.9], [True, True])
    second.update([cat, cat], ["cat", "cat"], [0.3, 0.3], [True, False])
    first.merge(second.records)
    report = first.report(expected=3)
    assert report.overall.official == pytest.approx((1.0 + 0.9 + 0.3) / 3)
    assert report.by_answer_type["other"].soft == pytest.approx(0.6)
    assert report.by_answer_type["yes/no"].num_questions == 1
    assert report.overall.percent() == {"num_questions": 3, "soft": 73.33, "official": 73.33}
    assert report.form == "current"


def test_meter_refuses_double_counting_and_wrong_totals() -> None:
    meter = AccuracyMeter()
    yes = question(1, ["yes"] * 10)
    meter.update([yes], ["yes"], [1.0], [True])
    with pytest.raises(ValueError, match="question 1 was counted twice"):
        meter.update([yes], ["yes"], [1.0], [True])
    with pytest.raises(ValueError, match="the evaluation has 2"):
        meter.report(expected=2)
    with pytest.raises(ValueError, match="no question was counted"):
        AccuracyMeter().report()
    with pytest.raises(UserError, match="Question 7 has neither"):
        meter.update([question(7, [])], ["yes"], [0.0], [True])


def test_without_human_answers_there_is_no_official_accuracy() -> None:
    meter = AccuracyMeter()
    scored = question(1, [], scores={"red": 0.6})
    meter.update([scored, question(2, ten("red", 4), "number")], ["red", "red"], [0.6, 1.0], [True, True])
    report = meter.report()
    assert report.overall.official is None
    assert report.overall.soft == pytest.approx(0.8)
    assert report.by_answer_type["number"].official == 1.0
    assert best_constant_answer([scored], ["blue", "red"]).score.official is None
    assert best_constant_answer([scored], ["blue", "red"]).answer == "red"


def test_best_constant_answer_is_judged_by_the_official_accuracy() -> None:
    """Ten "Red" are compared literally, so "red" earns its soft score there and no official point."""
    questions = [question(1, ["Red"] * 10, scores={"red": 1.0}), question(2, ten("blue", 3))]
    constant = best_constant_answer(questions, ["red", "blue"])
    assert constant.answer == "blue"
    assert constant.score.official == pytest.approx(0.45)
    assert constant.score.soft == pytest.approx(0.45)
    literal = best_constant_answer([question(1, ["the dog"] * 10)], ["dog", "the dog"])
    assert (literal.answer, literal.score.official) == ("the dog", 1.0)
    tied = [question(1, ["red"] * 10), question(2, ["blue"] * 10)]
    assert best_constant_answer(tied, ["green", "blue", "red"]).answer == "blue"
