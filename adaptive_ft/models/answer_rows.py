"""The answer head of a checkpoint for another table of answers: its rows are taken over by the answers' text.

As the original does for LXMERT's pretrained head. Shape suffixes: A answers of the run, P of the checkpoint,
E inputs of the head.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from adaptive_ft.errors import UserError

ARTICLES = ("a ", "an ", "the ")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SPELLINGS = {"grey": "gray", **{word: str(number) for number, word in enumerate(NUMBERS, start=1)}}


def read_answers(path: Path) -> list[str]:
    """The answers of a JSON list in order: of strings, or of {"ans": string} as the original's all_ans.json.

    Raises UserError for a file of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--model.answers '{path}' cannot be read as JSON: {error}.") from error
    entries = content if isinstance(content, list) else []
    written = [entry.get("ans") if isinstance(entry, dict) else entry for entry in entries]
    answers = [answer for answer in written if isinstance(answer, str)]
    if not answers or len(answers) != len(written):
        raise UserError(f"--model.answers '{path}' must hold a JSON list of answers, or of {{\"ans\": answer}}.")
    return answers


def plain_answer(answer: str) -> str:
    """The answer as the original's pretraining writes it: lower case, no last period, no leading article, digits."""
    plain = answer.lower()
    if plain.endswith("."):
        plain = plain[:-1].strip()
    for article in ARTICLES:
        if plain.startswith(article):
            plain = plain.removeprefix(article).strip()
    return SPELLINGS.get(plain, plain)


def matching_rows(wanted: Sequence[str], given: Sequence[str]) -> list[int | None]:
    """For each wanted answer the place of the given one that reads the same, or None."""
    places: dict[str, int] = {}
    for form in (str, plain_answer):  # an answer that stands there as it is comes before one that only reads alike
        for place, answer in enumerate(given):
            places.setdefault(form(answer), place)
    return [places.get(plain_answer(answer)) for answer in wanted]


def taken_over(head: nn.Linear, rows: Sequence[int | None]) -> nn.Linear:
    """A Linear E -> A with the given rows of `head`, a Linear E -> P; weight and bias 0 where there is none."""
    found = torch.tensor([row is not None for row in rows], device=head.weight.device)
    places = torch.tensor([row or 0 for row in rows], device=head.weight.device)
    fitted = nn.Linear(head.in_features, len(rows), device=head.weight.device, dtype=head.weight.dtype)
    with torch.no_grad():
        fitted.weight.copy_(torch.where(found.unsqueeze(1), head.weight[places], 0.0))
        fitted.bias.copy_(torch.where(found, head.bias[places], 0.0))
    return fitted
