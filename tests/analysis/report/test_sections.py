"""What is said of a run: everything of a whole one, and of others what they have."""

import json
from dataclasses import replace

import pytest
import torch

from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.sections import Told, section
from adaptive_ft.data.records import label_question
from tests.analysis.report.conftest import MakeRun, examined_of, example, shares_of


def test_a_whole_run_has_every_part(told: Told) -> None:
    own = section(told, examples=4)
    assert [figure.title for figure in own.figures] == [
        "Score (%)", "Training loss", "Share of components tuned (%)", "Decisions on the validation data",
    ]  # fmt: skip
    assert own.usage is not None
    assert own.usage.epochs == [1, 2, 3]
    shares = json.loads(own.usage.shares)
    assert shares["splits"]["val"] == [shares_of(epoch, "val") for epoch in (1, 2, 3)]
    assert [by for by, _ in own.kinds] == ["question type", "answer type"]
    assert (len(own.cards), own.farthest) == (4, 0.7)
    assert own.versions == {"torch": "9.9"}


def test_the_tiles_tell_live_decisions_only(told: Told) -> None:
    """Of the seven live ones none is constant; the four samples decide in four ways."""
    tiles = {name: value for name, value, _ in section(told, 0).tiles}
    assert (tiles["live decisions"], tiles["always tuned"], tiles["never tuned"]) == ("7", "0", "0")
    assert tiles["ways of deciding"] == "4"


def test_a_run_that_decides_nothing_has_no_map_and_no_tiles(make_run: MakeRun) -> None:
    run = replace(read_run(make_run(strategy="standard")), components=None, usage={})
    found = examined_of([example(0), example(1)], torch.zeros(2, 0), strategy="standard")
    own = section(Told(run, found), 2)
    assert (own.usage, own.tiles, own.per_sample) == (None, [], "")
    assert [figure.title for figure in own.figures] == ["Score (%)", "Training loss"]
    assert [card.tuned for card in own.cards] == [7, 7]


def test_labelled_pictures_are_counted_by_class(make_run: MakeRun) -> None:
    samples = [example(number, question=label_question(number, "cat" if number else "dog")) for number in range(3)]
    own = section(Told(read_run(make_run()), examined_of(samples, torch.ones(3, 8))), 0)
    ((by, usages),) = own.kinds
    assert by == "class"
    assert [(usage.kind, usage.samples) for usage in usages] == [("cat", 2), ("dog", 1)]


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_young_run_shows_what_there_is(make_run: MakeRun, epochs: int) -> None:
    own = section(Told(read_run(make_run(epochs=epochs, finished=False))), 4)
    assert not own.finished
    assert (own.usage is None) == (epochs == 0)
    assert len(own.figures) == 4 * epochs
