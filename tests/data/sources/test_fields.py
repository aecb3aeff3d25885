"""Values of JSON entries are taken in the type they must have, and shown where they have another."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from adaptive_ft.data.sources.fields import as_list, as_number, as_object, image_id, text, text_or_empty, whole_number

ENTRY = {"word": "é", "number": 7, "digits": "007", "nothing": None, "truth": True, "half": 0.5, "lone": "a\udc80"}


def test_values_are_taken_as_they_are_meant() -> None:
    assert (text(ENTRY, "word"), text_or_empty(ENTRY, "nothing"), text_or_empty(ENTRY, "absent")) == ("é", "", "")
    assert (whole_number(ENTRY, "number"), whole_number(ENTRY, "digits")) == (7, 7)
    assert (image_id(ENTRY, "number"), image_id(ENTRY, "digits")) == ("7", "007")
    assert (as_number(0.5, "x"), as_list([1], "x"), as_object({"a": 1}, "x")) == (0.5, [1], {"a": 1})


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda: text(ENTRY, "number"), "'number' is 7, expected a text"),
        (lambda: text(ENTRY, "lone"), "'lone' holds half a character"),
        (lambda: text(ENTRY, "absent"), "key 'absent' is missing"),
        (lambda: text([], "word"), "[] is no object with 'word'"),
        (lambda: text_or_empty(ENTRY, "half"), "'half' is 0.5, expected a text"),
        (lambda: whole_number(ENTRY, "truth"), "'truth' is True, expected a whole number"),
        (lambda: whole_number(ENTRY, "half"), "'half' is 0.5, expected a whole number"),
        (lambda: whole_number({"x": "²"}, "x"), "'x' is '²', expected a whole number"),
        (lambda: image_id(ENTRY, "truth"), "'truth' is True, expected a text"),
        (lambda: as_number(float("inf"), "the score"), "the score is inf, expected a number"),
        (lambda: as_number(True, "the score"), "the score is True, expected a number"),
        (lambda: as_list("abc", "the answers"), "the answers is 'abc', expected a list"),
        (lambda: as_object(["a" * 99], "x"), f"x is ['{'a' * 58}, expected an object"),
    ],
)
def test_other_types_are_shown(take: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        take()
