"""Rows of an answer head by text: the original's writing of answers, and the real tables."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptive_ft.errors import UserError
from adaptive_ft.models.answer_rows import matching_rows, plain_answer, read_answers, taken_over


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The Dog.", "dog"), ("a man", "man"), ("the woman", "woman"), ("an apple", "apple"), ("Two", "2"),
        ("ten", "10"), ("grey", "gray"), ("a grey", "gray"), ("grey cat", "grey cat"), ("answer", "answer"), ("", ""),
    ],
)  # fmt: skip
def test_answers_as_the_original_writes_them(answer: str, plain: str) -> None:
    assert plain_answer(answer) == plain


def test_rows_are_found_by_text_and_the_literal_one_comes_first() -> None:
    given = ["the man", "2", "gray", "man", "Yes."]
    assert matching_rows(["a man", "two", "grey", "yes", "no"], given) == [3, 1, 2, 4, None]


def test_rows_without_a_partner_are_zero() -> None:
    head = nn.Linear(3, 2)
    fitted = taken_over(head, [1, None, 0])
    assert torch.equal(fitted.weight, torch.stack([head.weight[1], torch.zeros(3), head.weight[0]]))
    assert torch.equal(fitted.bias, torch.stack([head.bias[1], torch.zeros(()), head.bias[0]]))


def test_both_forms_of_a_list_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    for content in (["yes", ""], [{"ans": "yes", "dsets": ["vqa"]}, {"ans": ""}]):
        file.write_text(json.dumps(content))
        assert read_answers(file) == ["yes", ""]
    for bad in ("{}", "[]", "[1]", '[{"answer": "yes"}]', '["yes"', "3"):
        file.write_text(bad)
        with pytest.raises(UserError, match=r"--model\.answers"):
            read_answers(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_answers(tmp_path / "none.json")


def test_the_real_tables(shared_data: Path) -> None:
    """9,500 pretraining answers and the 3,129 of VQA v2: a row is an answer of the same text, most have one."""
    given = read_answers(shared_data / "lxmert_answer_tables/all_ans.json")
    wanted = read_answers(shared_data / "vqa_v2_answer_vocab/trainval_label2ans.json")
    rows = matching_rows(wanted, given)
    assert (len(given), len(wanted)) == (9500, 3129)
    assert all(row is None or given[row] == plain_answer(answer) for answer, row in zip(wanted, rows, strict=True))
    missing = {answer for answer, row in zip(wanted, rows, strict=True) if row is None}
    assert missing == {answer for answer in wanted if plain_answer(answer) not in given}
    assert len(missing) < 100
