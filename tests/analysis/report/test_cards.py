"""Examples: chosen from few to many tuned components, judged in words and colour, with picture and regions."""

from xml.etree import ElementTree

import pytest
import torch

from adaptive_ft.analysis.examined import Examined
from adaptive_ft.analysis.report.cards import cards, picture_name
from adaptive_ft.data.records import OUTSIDE_TABLE, Question, label_question
from tests.analysis.report.conftest import examined_of, example, picture


def test_examples_go_from_the_least_tuned_to_the_most(examined: Examined) -> None:
    shown = cards(examined, 3)
    assert [(card.image_id, card.tuned) for card in shown] == [("image0", 0), ("image3", 3), ("image1", 7)]
    assert [card.tuned for card in cards(examined, 10)] == [0, 2, 3, 7]
    assert cards(examined, 0) == []


@pytest.mark.parametrize(("score", "verdict"), [(1.0, "right"), (0.3, "partly"), (0.0, "wrong"), (None, "unjudged")])
def test_the_verdict_follows_the_score(score: float | None, verdict: str) -> None:
    (card,) = cards(examined_of([example(0, score=score)], torch.ones(1, 8)), 1)
    assert card.verdict == verdict


def test_regions_lie_over_the_picture_in_its_own_measure() -> None:
    (card,) = cards(examined_of([example(0)], torch.ones(1, 8)), 1)
    frame = ElementTree.fromstring(str(card.image).replace('alt="picture image0">', 'alt="picture image0"/>'))
    assert frame.attrib["style"] == "aspect-ratio:80/60;max-width:347px"  # 260 high
    (layer,) = frame.iter("svg")
    assert layer.attrib["viewBox"] == "0 0 80 60"
    (box,) = layer
    assert [float(box.attrib[side]) for side in ("x", "y", "width", "height")] == [10, 5, 40, 40]
    (shown,) = frame.iter("img")
    assert shown.attrib["data-picture"] == picture_name(picture())


def test_a_picture_is_named_by_what_it_shows() -> None:
    """Two samples about one picture ask for it by one name, others for theirs."""
    samples = [example(0), example(1), example(2, picture=picture((0, 0, 0)))]
    names = [card.picture and picture_name(card.picture) for card in cards(examined_of(samples, torch.ones(3, 8)), 3)]
    assert names[0] == names[1] != names[2]


def test_without_picture_and_regions_there_is_no_frame() -> None:
    (card,) = cards(examined_of([example(0, picture=None, boxes_R4=())], torch.ones(1, 8)), 1)
    assert card.image == ""


def test_a_label_is_no_question_and_an_answer_outside_the_table_is_not_shown() -> None:
    outside = Question(5, "why?", "why", "other", (), {OUTSIDE_TABLE: 1.0})
    samples = [example(0, question=label_question(0, "cat")), example(5, question=outside)]
    label, asked = cards(examined_of(samples, torch.ones(2, 8)), 2)
    assert (label.question, label.score, label.answers) == (None, None, [("cat", "")])
    assert (asked.question, asked.answers) == ("why?", [])
