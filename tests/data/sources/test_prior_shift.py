"""The division of questions: by chance yet repeatable, no image on two sides, answers apart or turned round."""

import random
from collections import Counter
from typing import Any

import pytest

from adaptive_ft.data.records import Question
from adaptive_ft.data.sources.prior_shift import (
    IN_DOMAIN,
    PARTS,
    SHIFTED,
    SOURCE_TRAIN,
    SOURCE_VAL,
    TRAIN,
    Asked,
    Shares,
    asked,
    divide,
    shifted_groups,
)
from adaptive_ft.errors import UserError

ANSWERS = {"is the": ["yes", "no"], "how many": ["1", "2", "3"], "what color": ["red", "white", "blue", "green"]}


def question(number: int, text: str, kind: str, answers: list[str]) -> Question:
    return Question(number, text, kind, "other", tuple(answers), {})


def about(number: int, kind: str, answer: str, image: str) -> Asked:
    return asked(image, question(number, f"{kind} cat?", kind, [answer] * 10))


@pytest.fixture(scope="module")
def questions() -> list[Asked]:
    """2,000 questions about 1,000 images."""
    draw = random.Random(7)
    kinds = [draw.choice(list(ANSWERS)) for _ in range(2000)]
    return [
        about(number, kind, draw.choice(ANSWERS[kind]), f"image{draw.randrange(1000)}")
        for number, kind in enumerate(kinds)
    ]


def images(part: list[Asked]) -> set[str]:
    return {one.image_id for one in part}


def test_the_answer_of_a_question_is_the_most_frequent_in_official_writing() -> None:
    one = asked("a", question(3, "Is it Red?", "is it", ["Yes!", "no", "no", "yes", "yes.", *"abcde"]))
    assert one == Asked(3, "a", ("is it", "yes"), ("is", "it", "red", "yes"))


@pytest.mark.parametrize(
    ("kind", "answers", "lacking"), [("", ["yes"] * 10, "no question_type"), ("is", [], "no answers")]
)
def test_questions_that_cannot_be_grouped_are_named(kind: str, answers: list[str], lacking: str) -> None:
    with pytest.raises(UserError, match=f"question 5 has {lacking}"):
        asked("a", question(5, "Is it?", kind, answers))


def test_equal_seeds_divide_equally_in_any_order_of_the_questions(questions: list[Asked]) -> None:
    first = divide(questions, Shares(crossing=0.2), 1)
    assert divide(questions[::-1], Shares(crossing=0.2), 1) == first
    other = divide(questions, Shares(crossing=0.2), 2)
    assert all(other[part] != first[part] for part in PARTS)


def test_no_image_is_pretrained_on_trained_on_and_judged_on(questions: list[Asked]) -> None:
    """The two validation sets alone share images: they ask different questions about them."""
    parts = divide(questions, Shares(), 1)
    sides = [parts[SOURCE_TRAIN], parts[SOURCE_VAL], parts[TRAIN], [*parts[SHIFTED], *parts[IN_DOMAIN]]]
    assert sum(len(images(side)) for side in sides) == len(set.union(*map(images, sides)))
    numbers = [one.number for part in parts.values() for one in part]
    assert len(set(numbers)) == len(numbers)
    everything = {one.number for one in questions}
    left_out = [one for one in questions if one.number in everything.difference(numbers)]
    assert left_out
    assert images(left_out) <= images(parts[TRAIN]) | set.difference(images(questions), *map(images, sides))


def test_the_parts_have_their_shares(questions: list[Asked]) -> None:
    """Of the images exactly, of the questions by the size of the groups."""
    parts = divide(questions, Shares(source=0.6, source_val=0.25, val=0.5), 1)
    total = len(images(questions))
    assert len(images(parts[SOURCE_VAL])) == round(0.25 * round(0.6 * total))
    assert len(images(parts[SOURCE_TRAIN])) == round(0.6 * total) - len(images(parts[SOURCE_VAL]))
    judged = len(parts[SHIFTED]) + len(parts[IN_DOMAIN])
    assert 1 / 3 <= len(parts[SHIFTED]) / judged < 1 / 2  # the last group goes beyond the third


def test_no_question_type_has_an_answer_on_both_sides(questions: list[Asked]) -> None:
    parts = divide(questions, Shares(), 1)
    groups = {part: {one.group for one in found} for part, found in parts.items()}
    assert groups[TRAIN] == groups[IN_DOMAIN]
    assert not groups[TRAIN] & groups[SHIFTED]
    assert groups[SOURCE_TRAIN] == groups[TRAIN] | groups[SHIFTED]


def test_a_share_of_the_questions_may_cross(questions: list[Asked]) -> None:
    """Every group is then on both sides, each in its own proportion."""
    apart, crossed = (divide(questions, Shares(crossing=share), 1) for share in (0.0, 0.2))
    of_training = {one.group for one in apart[TRAIN]}
    for group in {one.group for one in questions}:
        crosses, stays = (IN_DOMAIN, SHIFTED) if group not in of_training else (SHIFTED, IN_DOMAIN)
        counts = Counter(part for part, found in crossed.items() for one in found if one.group == group)
        assert 0.05 < counts[crosses] / (counts[crosses] + counts[stays]) < 0.4


def test_training_covers_the_words_of_the_shifted_side() -> None:
    """After "is the|yes" has gone to the shifted side, the one group with its rare word goes to training, though it
    comes last and a larger one has nothing to give."""
    rare = [Asked(number, "a", ("what", "zebra"), ("what", "zebra")) for number in range(2)]
    plain = [Asked(number, "a", ("how many", "2"), ("how", "many", "2")) for number in range(10, 40)]
    first = [Asked(number, "a", ("is the", "yes"), ("is", "the", "zebra", "yes")) for number in range(50, 60)]

    class InOrder(random.Random):
        def sample(self, population: Any, k: int, **_: Any) -> list[Any]:
            return list(population)[:k]

    assert shifted_groups([*first, *plain, *rare], 0.9, InOrder()) == {("is the", "yes"), ("how many", "2")}
    assert shifted_groups([*first, *plain, *rare], 0.1, InOrder()) == {("is the", "yes")}


def test_what_would_be_empty_is_named(questions: list[Asked]) -> None:
    with pytest.raises(UserError, match="leave nothing for source_val"):
        divide(questions[:4], Shares(), 1)


@pytest.mark.parametrize(
    ("name", "share"), [("source", 0.0), ("val", 1.0), ("crossing", -0.1), ("shifted", float("nan"))]
)
def test_shares_that_are_none_are_refused(name: str, share: float) -> None:
    with pytest.raises(UserError, match=f"The share '{name}' is {share}; give one between 0 and 1"):
        Shares(**{name: share}).check()
