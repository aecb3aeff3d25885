"""Layer x component maps as inline SVG: every cell carries its component's number and its value, which a script may
change.

Shapes: C components; L layers (rows) and P places (columns) of one panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from adaptive_ft.analysis.panels import Panel, panels
from adaptive_ft.components import ComponentMap

CELL, GAP, SPAN_GAP = 19, 2, 7
LEFT, ABOVE, LETTER = 78, 24, 6.1
SMALL_CELL = 6
ROOM, SMALL_ROOM, LARGEST = 560, 200, 1.5
"""Panels narrower than this many pixels are enlarged, up to so many times; small ones up to twice."""


def heat_map(values_C: Sequence[float], components: ComponentMap, told: Sequence[str]) -> Markup:
    """One labelled SVG per panel; `values_C` in [0, 1] colour the cells, `told` says in words what each is.

    A cell whose value is NaN has no colour.
    """
    parts = panels(components)
    larger = min(LARGEST, max(1.0, ROOM / max(_width(panel) for panel in parts)))
    drawn = [_panel(panel, values_C, components, told, larger) for panel in parts]
    return Markup("").join(drawn)


def small_map(gates_C: Sequence[float], components: ComponentMap) -> Markup:
    """The decisions of one sample: a small square per component, filled where it is tuned."""
    parts = panels(components)
    larger = min(2.0, max(1.0, SMALL_ROOM / max(_lefts(panel, SMALL_CELL, 3, start=0)[-1] for panel in parts)))
    return Markup("").join(_small_panel(panel, gates_C, components, larger) for panel in parts)


def _panel(
    panel: Panel, values_C: Sequence[float], components: ComponentMap, told: Sequence[str], larger: float
) -> Markup:
    lefts = _lefts(panel, CELL, SPAN_GAP, start=LEFT)
    upright = any(len(label) > 2 for label in panel.labels)
    below = 10 + (LETTER * max(map(len, panel.labels)) if upright else 12)
    width, bottom = _width(panel), ABOVE + len(panel.layers) * CELL
    cells = [
        _cell(lefts[place], ABOVE + row * CELL, int(column), components.live[column], values_C[column], told[column])
        for row, columns in enumerate(panel.columns_LP)
        for place, column in enumerate(columns)
    ]
    labels = [*_row_labels(panel), *_span_labels(panel, lefts), *_column_labels(panel, lefts, bottom)]
    svg = Markup('<svg width="{:.0f}" height="{:.0f}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>')
    height = bottom + below
    drawn = svg.format(width * larger, height * larger, width, height, panel.title, Markup("").join([*labels, *cells]))
    return Markup('<div class="panel"><h4>{}</h4><div class="scroll">{}</div></div>').format(panel.title, drawn)


def _cell(left: float, top: float, column: int, live: bool, value: float, told: str) -> Markup:
    """A square with a colour, where there is a number for it and the component can reach the answer."""
    box = Markup('x="{:g}" y="{:g}" width="{}" height="{}" rx="3"').format(left, top, CELL - GAP, CELL - GAP)
    if not live:
        return Markup('<rect class="dead" {}><title>{}</title></rect>').format(box, told)
    if math.isnan(value):
        return Markup('<rect class="cell unknown" {} data-c="{}"><title>{}</title></rect>').format(box, column, told)
    return Markup('<rect class="cell" {} data-c="{}" style="--t:{:g}"><title>{}</title></rect>').format(
        box, column, round(value, 4), told
    )


def _width(panel: Panel) -> float:
    """Of the panel's picture, before it is enlarged."""
    return _lefts(panel, CELL, SPAN_GAP, start=LEFT)[-1] + CELL + 8


def _lefts(panel: Panel, side: float, gap: float, start: float) -> list[float]:
    """Where each column begins: a gap between two parts."""
    breaks = {span.start for span in panel.spans}
    lefts, x = [], start
    for place in range(len(panel.places)):
        x += gap if place and place in breaks else 0
        lefts.append(x)
        x += side
    return lefts


def _row_labels(panel: Panel) -> list[Markup]:
    text = Markup('<text x="{}" y="{:g}" text-anchor="end">{}</text>')
    return [
        text.format(LEFT - 8, ABOVE + row * CELL + CELL / 2 + 3, layer.replace(".", " "))
        for row, layer in enumerate(panel.layers)
    ]


def _span_labels(panel: Panel, lefts: Sequence[float]) -> list[Markup]:
    text = Markup('<text class="faint" x="{:g}" y="{}" text-anchor="middle">{}</text><line class="bracket" x1="{:g}" '
                  'x2="{:g}" y1="{}" y2="{}"/>')  # fmt: skip
    labels = []
    for span in panel.spans:
        if span.bracketed:
            start, stop = lefts[span.start], lefts[span.stop - 1] + CELL - GAP
            labels.append(text.format((start + stop) / 2, ABOVE - 9, span.name, start, stop, ABOVE - 4, ABOVE - 4))
    return labels


def _column_labels(panel: Panel, lefts: Sequence[float], bottom: float) -> list[Markup]:
    """Numbers lie, words stand."""
    flat = Markup('<text class="faint" x="{:g}" y="{:g}" text-anchor="middle">{}</text>')
    steep = Markup('<text class="faint" transform="translate({:g} {:g}) rotate(-90)" text-anchor="end">{}</text>')
    middle = (CELL - GAP) / 2
    return [
        flat.format(left + middle, bottom + 12, label)
        if len(label) <= 2
        else steep.format(left + middle + 4, bottom + 4, label)
        for left, label in zip(lefts, panel.labels, strict=True)
    ]


def _small_panel(panel: Panel, gates_C: Sequence[float], components: ComponentMap, larger: float) -> Markup:
    """Three paths instead of hundreds of squares: tuned, frozen, dead."""
    lefts = _lefts(panel, SMALL_CELL, 3, start=0)
    outlines = {"on": "", "off": "", "dead": ""}
    for row, columns in enumerate(panel.columns_LP):
        for left, column in zip(lefts, columns, strict=True):
            kind = ("on" if gates_C[column] else "off") if components.live[column] else "dead"
            outlines[kind] += f"M{left:g} {row * SMALL_CELL}h{SMALL_CELL - 1}v{SMALL_CELL - 1}h-{SMALL_CELL - 1}z"
    width, height = lefts[-1] + SMALL_CELL, len(panel.layers) * SMALL_CELL
    paths = Markup("").join(Markup('<path class="{}" d="{}"/>').format(*pair) for pair in outlines.items())
    svg = Markup('<svg width="{:g}" height="{:g}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>')
    return svg.format(width * larger, height * larger, width, height, f"decisions in the {panel.title}", paths)
