"""Questions on the disk: order, content and repeated ids as if they stood in a dictionary, in little memory."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.sources.question_store import QuestionStore
from adaptive_ft.errors import UserError
from tests.data.conftest import make_question

Asked = list[tuple[str, Question]]


def test_it_is_what_was_put_in(records: list[ImageRecord]) -> None:
    """Images as they are first asked about, their questions in order, of two files that ask about the same ones."""
    by_round: Asked = [
        (record.image_id, record.questions[place])
        for place in range(2)
        for record in reversed(records)
        if place < len(record.questions)
    ]
    odd = replace(make_question(9_000_000_000), text="\u00e9 \"'", answers=(), scores={"a": 0.3, "\u00e9": 1 / 3})
    others: Asked = [(records[0].image_id, odd), ("new", make_question(-5))]
    store = QuestionStore([(Path("a.json"), by_round), (Path("b.json"), others)])
    expected: dict[str, list[Question]] = {}
    for image_id, question in by_round + others:
        expected.setdefault(image_id, []).append(question)
    assert list(store) == list(expected)
    assert store == expected
    assert len(store) == len(expected)
    assert "absent" not in store
    assert store.get("absent", ()) == ()


def test_none_is_none() -> None:
    assert dict(QuestionStore([])) == {}


@pytest.mark.parametrize(
    ("second", "told"), [("q.json", r"stands in 'q\.json' twice"), ("r.json", r"stands in 'q\.json' and in 'r\.json'")]
)
def test_a_question_asked_twice_is_refused(second: str, told: str) -> None:
    """Also about another image: predictions are told by the question's number."""
    first: Asked = [("a", make_question(1)), ("b", make_question(2))]
    again: Asked = [("c", make_question(3)), ("d", make_question(2))]
    with pytest.raises(UserError, match=f"question 2 {told}"):
        QuestionStore([(Path("q.json"), first), (Path(second), again)])


def test_an_id_of_more_than_63_bits_is_refused() -> None:
    with pytest.raises(UserError, match=r"q\.json: the question id 9223372036854775808 has more than 63 bits"):
        QuestionStore([(Path("q.json"), [("a", make_question(2**63))])])


def test_memory_does_not_grow_with_the_questions() -> None:
    def asked() -> Iterator[tuple[str, Question]]:
        for number in range(3000):
            yield f"img{number % 100}", replace(make_question(number), text=f"What is {number}?" * 50)

    tracemalloc.start()
    store = QuestionStore([(Path("q.json"), asked())])
    assert sum(len(listed) for listed in store.values()) == 3000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 19  # of 3 MB of texts
