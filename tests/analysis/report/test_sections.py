"""What is said of a run: everything of a whole one, and of others what they have."""

import json
import re
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
import torch

from adaptive_ft.analysis.report.charts import TONES
from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.sections import Told, compared, section
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


def test_layers_that_were_frozen_by_number_need_no_decisions(make_run: MakeRun) -> None:
    """A specific_k run is told whole, but for the chart of decisions, of which it has none."""
    run = read_run(make_run(strategy="specific_k", frozen_layers=[0]))
    own = section(Told(run), 0)
    assert own.notes == ()
    assert [figure.title for figure in own.figures] == ["Score (%)", "Training loss", "Share of components tuned (%)"]
    assert own.usage is not None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strategy": "spotune"}, "unknown strategy 'spotune'"),
        ({"strategy": "specific_k"}, "strategy 'specific_k' needs frozen_layers"),
        ({"strategy": "specific_k", "frozen_layers": [7]}, "frozen_layers [7] do not exist"),
        ({"strategy": "specific_k", "frozen_layers": 7}, "adapt.frozen_layers is 7, no list of layers' numbers"),
        ({"strategy": "specific_k", "frozen_layers": ["a"]}, "adapt.frozen_layers is ['a'], no list"),
    ],
)
def test_a_strategy_that_cannot_be_told_is_a_notice_beside_the_rest(
    make_run: MakeRun, change: dict[str, Any], sentence: str
) -> None:
    own = section(Told(read_run(make_run(**change)), notes=("first",)), 0)
    assert [figure.title for figure in own.figures] == ["Score (%)", "Training loss", "Share of components tuned (%)"]
    assert own.notes[0] == "first"
    assert sentence in own.notes[1]


@pytest.mark.parametrize("adapt", [3, None, {"policy": 3}, {"strategy": "spottune", "policy": None}])
def test_options_of_another_shape_stop_no_page(make_run: MakeRun, adapt: Any) -> None:
    run = read_run(make_run())
    own = section(Told(replace(run, config={"adapt": adapt})), 0)
    assert own.cells["val"] == "50.00"
    assert len(own.notes) == (0 if isinstance(adapt, dict) and "strategy" in adapt else 1)


def test_more_runs_than_tones_begin_again_with_dashed_lines(make_run: MakeRun) -> None:
    run = read_run(make_run())
    lines = [(tone, dashed) for _, tone, dashed in compared([run] * (2 * TONES)).legend]
    assert lines == [(tone, dashed) for dashed in (False, True) for tone in range(TONES)]


@pytest.mark.parametrize("none", [nan, inf, -inf, None])
def test_what_is_no_number_is_left_out_of_a_chart_and_counted(make_run: MakeRun, none: float | None) -> None:
    run = read_run(make_run())
    epochs = [*run.epochs[:-1], {**run.epochs[-1], "val_score": none, "gap": none}]
    own = section(Told(replace(run, epochs=epochs, summary=None, losses=[*run.losses, (35, none)])), 0)
    scores, loss = own.figures[:2]
    assert loss.left_out == 1
    assert loss.drawn == section(Told(run), 0).figures[1].drawn
    assert scores.left_out == (none is not None)  # a score that is not known is none that failed
    assert not re.search(r"\b(nan|inf|None)\b", scores.drawn + loss.drawn)
    assert (own.cells["val"], own.cells["gap"]) == ("–", "–")


def test_a_share_that_is_no_number_is_null_for_the_script_and_a_cell_without_colour(make_run: MakeRun) -> None:
    run = read_run(make_run())
    shares = (nan, inf, *shares_of(3, "val")[2:])
    own = section(Told(replace(run, usage={**run.usage, "val": {**run.usage["val"], 3: shares}})), 0)
    assert own.usage is not None

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    told = json.loads(own.usage.shares, parse_constant=refuse)
    assert told["splits"]["val"][2] == [None, None, *shares_of(3, "val")[2:]]
    assert own.usage.drawn.count('class="cell unknown"') == 2
    assert not re.search(r"\b(nan|inf)\b", own.usage.drawn)
    deciding = own.figures[-1]
    assert (deciding.title, deciding.left_out) == ("Decisions on the validation data", 3)


def test_a_distance_that_is_no_number_leaves_the_others_their_colours(told: Told) -> None:
    assert told.examined is not None
    assert told.examined.distance_C is not None
    distance_C = told.examined.distance_C.clone()
    distance_C[5] = nan
    distance_C[6] = inf
    own = section(replace(told, examined=replace(told.examined, distance_C=distance_C)), 0)
    assert own.farthest == pytest.approx(0.7)
    assert own.distance.count('class="cell unknown"') == 2
    assert not re.search(r"\b(nan|inf)\b", own.distance)


def test_the_samples_are_called_validation_examples_only_where_they_are(told: Told) -> None:
    assert section(told, 0).asked == "From 4 of 50 questions in 'shards'"
    run = replace(told.run, config={**told.run.config, "data": {"val": "shards"}})
    assert section(replace(told, run=run), 0).asked == "From 4 of 50 validation questions in 'shards'"
