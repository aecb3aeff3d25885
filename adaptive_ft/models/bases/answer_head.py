"""A checkpoint's answer head under `--model.answers`: read with its own answers, its rows kept by their text."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from adaptive_ft.errors import UserError
from adaptive_ft.models.answer_rows import matching_rows, read_answers, taken_over
from adaptive_ft.models.bases.options import DataFacts, ModelConfig

logger = logging.getLogger(__name__)

SHOWN = 5


def facts_of_head(config: ModelConfig, facts: DataFacts) -> DataFacts:
    """The facts with the checkpoint's answers in place of the data's, where `config` lists them."""
    return facts if config.answers is None else replace(facts, answer_table=read_answers(Path(config.answers)))


def check_listed(
    config: ModelConfig, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]], last: str
) -> None:
    """Refuse a list of another length than the head, whose last layer is called `last`.

    mismatched: name, the checkpoint's shape and the model's shape, as in transformers' "mismatched_keys".
    """
    for key, theirs, ours in mismatched:
        if config.answers is not None and key.startswith(last):
            raise UserError(
                f"--model.answers '{config.answers}' lists {ours[0]} answers, the head of '{config.name}' has"
                f" {theirs[0]}: give the list of the checkpoint."
            )


def check_given(config: ModelConfig, missing: Iterable[str], last: str) -> None:
    """Refuse a list for a checkpoint without a last layer: random rows would pass for rows found by their text."""
    if config.answers is not None and any(key.startswith(last) for key in missing):
        raise UserError(
            f"--model.answers '{config.answers}' lists the answers of '{config.name}', which has no answer head to take"
            " rows from: leave it out, and the head starts at random."
        )


def fitted_head(head: nn.Linear, config: ModelConfig, facts: DataFacts) -> nn.Linear:
    """The layer with one row per answer of the data, by text where `config` lists the checkpoint's answers."""
    if config.answers is None:
        return head
    rows = matching_rows(facts.answer_table, read_answers(Path(config.answers)))
    zero = [answer for answer, row in zip(facts.answer_table, rows, strict=True) if row is None]
    logger.warning(
        "%d of %d answers have their row of the answer head from '%s', by text; %d start at 0%s",
        len(rows) - len(zero),
        len(rows),
        config.name,
        len(zero),
        f", for instance {', '.join(map(repr, zero[:SHOWN]))}" if zero else "",
    )
    return taken_over(head, rows)
