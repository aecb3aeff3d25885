"""The official answer processing, golden case by golden case, oddities included."""

import pytest

from adaptive_ft.data.answers import (
    build_answer_table,
    count_outside,
    merge_scores,
    process_answer,
    process_digits_and_articles,
    process_punctuation,
    soft_scores,
)
from adaptive_ft.data.records import OUTSIDE_TABLE, Question

PUNCTUATION = {
    "t-shirt": "t shirt",  # inside a word a mark becomes a space
    "hot dog?": "hot dog ",  # so it does at the end
    "well, yes": "well yes",  # beside a space it disappears
    "a-b - c-d": "ab  cd",  # beside a space anywhere, it disappears everywhere
    "1,000": "1000",  # digit comma digit deletes every mark
    "1,000 t-shirts": "1000 tshirts",
    "1,a-b": "1 a b",
    "5.": "5",
    ".5": ".5",
    "2.5": "2.5",
    "e.g. this": "eg this",
    "." * 40: "." * 8,  # at most 32 periods go
    "it's 5:30 $3 50% a&b *#": "it's 5:30 $3 50% a&b *#",  # untouched marks
}
DIGITS_AND_ARTICLES = {
    "None": "0",
    "zero one two three four five six seven eight nine ten": "0 1 2 3 4 5 6 7 8 9 10",
    "eleven": "eleven",
    "The  cat on\ta mat, an": "cat on mat,",
    "dont": "don't",
    "hes couldnt've y'allll": "he's couldn't've y'all'll",
    "'ow'sat": "'ow's'at",
    "Im Ive": "im ive",  # the official keys have capitals and never match
    "somebody'd": "somebodyd",  # reversed officially
    "shes lets": "shes lets",  # officially mapped from themselves only
}


@pytest.mark.parametrize("raw", PUNCTUATION)
def test_punctuation(raw: str) -> None:
    assert process_punctuation(raw) == PUNCTUATION[raw]


@pytest.mark.parametrize("raw", DIGITS_AND_ARTICLES)
def test_digits_articles_and_contractions(raw: str) -> None:
    assert process_digits_and_articles(raw) == DIGITS_AND_ARTICLES[raw]


def test_the_whole_processing() -> None:
    assert process_answer(" The\nT-Shirt? ") == "t shirt"  # stripped first, so "? " at the end is no loose mark
    assert process_answer("Two dogs.") == "2 dogs"
    assert process_answer("a") == ""


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_scores_are_the_leave_one_out_values(count: int, score: float) -> None:
    answers = ["yes"] * count + [f"other{number}" for number in range(10 - count)]
    assert soft_scores(answers)["yes"] == score


def test_soft_scores_count_processed_answers() -> None:
    answers = ["t shirt", "t-shirt", "The T-shirt", "two", "2", "x", "y", "z", "u", "v"]
    scores = soft_scores(answers)
    assert scores["t shirt"] == 0.9
    assert scores["2"] == 0.6
    assert "t-shirt" not in scores


def test_soft_scores_need_ten_answers() -> None:
    with pytest.raises(ValueError, match="need 10 answers, got 9"):
        soft_scores(["yes"] * 9)


def test_scores_of_answers_that_become_equal_add_up() -> None:
    assert merge_scores([("T-shirt", 0.3), ("t shirt", 0.6), ("no", 0.9), ("No", 0.3)]) == {
        "t shirt": 0.9,
        "no": 1.0,
    }


def questions() -> list[Question]:
    scores = [{"b": 1.0, "a": 0.3}, {"a": 1.0, "b": 0.3}, {"c": 1.0}, {"dog": 1.0, "c": 0.3}, {OUTSIDE_TABLE: 1.0}]
    return [Question(number, "?", "", "", (), given) for number, given in enumerate(scores)]


def test_answer_table_is_ordered_by_count_then_alphabet() -> None:
    assert build_answer_table(questions(), min_count=1) == ["a", "b", "c", "dog"]
    assert build_answer_table(reversed(questions()), min_count=1) == ["a", "b", "c", "dog"]
    assert build_answer_table(questions(), min_count=2) == ["a", "b", "c"]


def test_answer_table_is_built_from_processed_answers() -> None:
    raw = Question(1, "?", "", "", ("T-shirt",) * 5 + ("the t-shirt",) * 5, {})
    assert build_answer_table([raw], min_count=1) == ["t shirt"]


def test_questions_without_an_answer_in_the_table_are_counted() -> None:
    def asked(answers: tuple[str, ...], scores: dict[str, float]) -> Question:
        return Question(1, "what?", "what", "other", answers, scores)

    questions = [
        asked(("red",) * 10, {}),
        asked((), {"blue": 0.3, "grey": 1.0}),
        asked(("A mauve",) * 10, {}),
        asked((), {OUTSIDE_TABLE: 1.0}),
        asked((), {}),
    ]
    assert count_outside(questions, ["red", "blue"]) == (2, 4)
    assert count_outside(questions, ["mauve"]) == (3, 4), "compared as they are processed"
