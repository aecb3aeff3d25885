"""The examples of a page: the picture with its regions, what was asked and answered, and what was tuned for it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from markupsafe import Markup

from adaptive_ft.analysis.decisions import tuned_per_sample
from adaptive_ft.analysis.examined import Examined, Example
from adaptive_ft.analysis.report.maps import small_map
from adaptive_ft.data.records import OUTSIDE_TABLE

SHOWN_ANSWERS = 4
TALLEST = 260  # pixels of a picture on the page
LABEL = "label"
"""What the one question about a labelled picture is called."""


@dataclass(frozen=True)
class Card:
    """One example, ready to be shown; `verdict` is "right", "partly", "wrong" or "unjudged".

    `image` asks for the `picture` by its name: the page holds every picture once, however many cards show it.
    """

    image: Markup
    picture: bytes | None
    image_id: str
    question: str | None
    kind: str | None
    answers: list[tuple[str, str]]
    prediction: str
    verdict: str
    score: str | None
    tuned: int
    decided: Markup


def cards(examined: Examined, wanted: int) -> list[Card]:
    """`wanted` of the examples, evenly spread from the one that tunes fewest components to the one that tunes most."""
    counts = tuned_per_sample(examined.gates_NC, examined.components).tolist()
    order = sorted(range(len(counts)), key=lambda number: (counts[number], number))
    places = min(wanted, len(order))
    step = (len(order) - 1) / max(1, places - 1)
    chosen = dict.fromkeys(order[round(place * step)] for place in range(places))
    gates_NC = examined.gates_NC.tolist()
    return [
        _card(examined.examples[number], counts[number], small_map(gates_NC[number], examined.components))
        for number in chosen
    ]


def _card(example: Example, tuned: int, decided: Markup) -> Card:
    question = example.question
    is_label = question.question_type == LABEL
    best = sorted(question.scores.items(), key=lambda pair: (-pair[1], pair[0]))
    known = [(answer, "" if is_label else f"{score:.1f}") for answer, score in best if answer != OUTSIDE_TABLE]
    return Card(
        image=_image(example),
        picture=example.picture,
        image_id=example.image_id,
        question=None if is_label else question.text,
        kind=None if is_label else question.question_type,
        answers=known[:SHOWN_ANSWERS],
        prediction=example.prediction,
        verdict=_verdict(example.score),
        score=None if example.score is None or is_label else f"{example.score:.1f}",
        tuned=tuned,
        decided=decided,
    )


def _verdict(score: float | None) -> str:
    if score is None:
        return "unjudged"
    return "wrong" if score == 0 else "right" if score >= 1 else "partly"


def _image(example: Example) -> Markup:
    """The picture, or an empty frame of its shape, under the regions; empty where there is neither."""
    if example.picture is None and not example.boxes_R4:
        return Markup("")
    width, height = example.size
    picture = Markup("")
    if example.picture is not None:
        picture = Markup('<img data-picture="{}" alt="picture {}">').format(
            picture_name(example.picture), example.image_id
        )
    boxes = Markup("").join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(x1, y1, x2 - x1, y2 - y1)
        for x1, y1, x2, y2 in example.boxes_R4
    )
    layer = Markup('<svg viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        width, height, boxes
    )
    # No wider than at the greatest height: a picture that is cut to it would be pressed flat.
    shape = Markup("aspect-ratio:{0}/{1};max-width:{2:.0f}px").format(width, height, TALLEST * width / height)
    return Markup('<div class="picture" style="{}">{}{}</div>').format(
        shape, picture, layer if example.boxes_R4 else ""
    )


def picture_name(picture: bytes) -> str:
    """What a picture is called within a page: the same for the same bytes."""
    return hashlib.sha256(picture).hexdigest()[:16]


def data_address(picture: bytes) -> str:
    """An encoded PNG or JPEG as a data: address."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
