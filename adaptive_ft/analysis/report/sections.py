"""What a page says of one run: numbers, curves, maps, kinds of questions and examples, each empty where the run does
not have it.

Shapes: N samples, C components, D decisions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from adaptive_ft.analysis.decisions import KindUsage, effective_rank, patterns, tuned_per_sample, usage_by_kind
from adaptive_ft.analysis.examined import Examined
from adaptive_ft.analysis.report.cards import LABEL, Card, cards
from adaptive_ft.analysis.report.charts import TONES, Line, drawable, histogram, line_chart
from adaptive_ft.analysis.report.maps import heat_map
from adaptive_ft.analysis.report.run_files import RunFiles, is_number
from adaptive_ft.analysis.report.strategies_table import cells, flattened, numbers
from adaptive_ft.analysis.usage import decision_shares, summary_of
from adaptive_ft.components import ComponentMap
from adaptive_ft.errors import UserError

SPLITS = {"val": "validation", "train": "training"}


@dataclass(frozen=True)
class Told:
    """A run to be shown, with what was found out besides and the sentences about what could not be."""

    run: RunFiles
    examined: Examined | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UsageMap:
    """The heatmap of one epoch, with the shares of all for the slider."""

    drawn: Markup
    epochs: list[int]
    splits: dict[str, str]
    shares: str


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, the names of its lines, (name, tone, dashed), and how many points are no numbers."""

    title: str
    drawn: Markup
    left_out: int = 0
    legend: list[tuple[str, int, bool]] = field(default_factory=list)


NOTHING = Figure("", Markup(""))


@dataclass(frozen=True)
class Section:
    """One run's part of the page, in the words of the template."""

    name: str
    finished: bool
    notes: tuple[str, ...]
    row: dict[str, Any]
    cells: dict[str, str]
    tiles: list[tuple[str, str, str]]
    figures: list[Figure]
    usage: UsageMap | None
    distance: Markup
    farthest: float
    kinds: list[tuple[str, list[KindUsage]]]
    layers: tuple[str, ...]
    per_sample: Markup
    cards: list[Card]
    asked: str
    examined: Examined | None
    config: list[tuple[str, str]]
    versions: Mapping[str, str]


def section(told: Told, examples: int) -> Section:
    """Everything there is to say about one run; a strategy that cannot be told becomes one more of its notes."""
    run, found = told.run, told.examined
    notes, deciding = told.notes, NOTHING
    try:
        deciding = _deciding(run)
    except UserError as error:
        notes = (*notes, f"How many decisions depend on the input is not told: {error}")
    row = numbers(run, found.parameters if found else None)
    distance, farthest = _distance(found)
    return Section(
        name=run.name,
        finished=run.finished,
        notes=notes,
        row=row,
        cells=cells(row),
        tiles=_tiles(found),
        figures=[figure for figure in (_scores(run), _loss(run), _tuned(run), deciding) if figure.drawn],
        usage=_usage_map(run),
        distance=distance,
        farthest=farthest,
        kinds=_kinds(found),
        layers=found.components.layers if found else (),
        per_sample=_per_sample(found),
        cards=cards(found, examples) if found else [],
        asked=_asked(run, found) if found else "",
        examined=found,
        config=flattened(run.config),
        versions=(run.summary or {}).get("versions", {}),
    )


def compared(runs: Sequence[RunFiles]) -> Figure:
    """The validation score of every run over the epochs; runs of one tone are told apart by their dashes."""
    lines = [
        Line(run.name, _percents(run, "val_score"), number % TONES, dashed=number // TONES % 2 == 1)
        for number, run in enumerate(runs)
    ]
    return _figure("Validation score (%)", lines)


def _figure(
    title: str, lines: Sequence[Line], x_name: str = "epoch", decimals: int = 1, between: bool = False
) -> Figure:
    shown = drawable(lines)
    legend = [(line.name, line.tone, line.dashed) for line in shown]
    left_out = sum(len(line.points) for line in lines) - sum(len(line.points) for line in shown)
    return Figure(title, line_chart(shown, x_name, decimals, between), left_out, legend if len(legend) > 1 else [])


def _percents(run: RunFiles, name: str) -> list[tuple[float, float]]:
    return [(record["epoch"], 100 * record[name]) for record in run.epochs if record.get(name) is not None]


def _scores(run: RunFiles) -> Figure:
    val = _percents(run, "val_score")
    lines = [Line("training", _percents(run, "train_score"), 0), Line("validation", val, 1)]
    if val and run.start_score is not None:
        start = 100 * run.start_score
        lines.append(Line("validation before training", [(val[0][0], start), (val[-1][0], start)], 7, dashed=True))
    return _figure("Score (%)", lines, between=True)


def _loss(run: RunFiles) -> Figure:
    return _figure("Training loss", [Line("loss", run.losses, 0)], x_name="update", decimals=3)


def _tuned(run: RunFiles) -> Figure:
    if not run.usage:
        return NOTHING
    lines = [
        Line(SPLITS[split], _percents(run, f"tuned_share_{split}"), tone) for tone, split in enumerate(["train", "val"])
    ]
    return _figure("Share of components tuned (%)", lines)


def _deciding(run: RunFiles) -> Figure:
    """How many decisions depend on the input, from the shares of each epoch; nothing where none is decided."""
    tying = run.tying()
    if tying is None or not any(tying.live) or "val" not in run.usage:
        return NOTHING
    counted: dict[str, list[tuple[float, float]]] = {"depend on the input": [], "always tuned": [], "never tuned": []}
    for epoch, shares_C in run.usage["val"].items():
        told = summary_of(tying, decision_shares(tying, torch.tensor(shares_C, dtype=torch.float64)))
        fixed = (told["always_on"], told["always_off"])
        known = 1.0 if all(map(is_number, shares_C)) else nan
        for points, count in zip(counted.values(), (told["decisions"] - sum(fixed), *fixed), strict=True):
            points.append((epoch, count * known))
    lines = [Line(name, points, tone) for tone, (name, points) in enumerate(counted.items())]
    return _figure("Decisions on the validation data", lines, decimals=0)


def _usage_map(run: RunFiles) -> UsageMap | None:
    if run.components is None:
        return None
    splits = [split for split in SPLITS if split in run.usage]
    epochs = sorted(set.intersection(*(set(run.usage[split]) for split in splits)))
    if not epochs:
        return None
    first = run.usage[splits[0]][epochs[-1]]
    shares = {split: [_rounded(run.usage[split][epoch]) for epoch in epochs] for split in splits}
    told = {"names": run.components.names, "epochs": epochs, "splits": shares}
    return UsageMap(
        drawn=heat_map(*_coloured(first, run.components, lambda share: f"{100 * share:.1f} %")),
        epochs=epochs,
        splits={split: SPLITS[split] for split in splits},
        shares=json.dumps(told, allow_nan=False).replace("<", "\\u003c"),
    )


def _rounded(shares: Sequence[float]) -> list[float | None]:
    """Shares for the script, in JSON, which has a null but no NaN."""
    return [round(share, 4) if is_number(share) else None for share in shares]


def _coloured(
    values: Sequence[float], components: ComponentMap, inked: Callable[[float], str], top: float = 1.0
) -> tuple[list[float], ComponentMap, list[str]]:
    """What a map is drawn from: colours from 0 to `top`, NaN for what is no number, and what each cell says."""
    words = [inked(value) if is_number(value) else "no number" for value in values]
    told = [
        f"{component.name}: {value if live else 'dead, cannot reach the answer'}"
        for component, live, value in zip(components, components.live, words, strict=True)
    ]
    return [value / top if is_number(value) else nan for value in values], components, told


def _distance(found: Examined | None) -> tuple[Markup, float]:
    """Relative distances, coloured from 0 to the largest."""
    distances = [] if found is None or found.distance_C is None else found.distance_C.tolist()
    top = max(filter(is_number, distances), default=0.0)
    if found is None or top == 0:
        return Markup(""), 0.0
    return heat_map(*_coloured(distances, found.components, lambda distance: f"{distance:.3f}", top)), top


def _asked(run: RunFiles, found: Examined) -> str:
    """Which examples the samples are; validation examples only where they come from the run's own validation set."""
    own = run.options("data").get("val")
    noun = f"validation {found.noun}" if Path(str(own)) == Path(found.address) else found.noun
    return f"From {len(found.examples)} of {found.total} {noun} in '{found.address}'"


def _tiles(found: Examined | None) -> list[tuple[str, str, str]]:
    """(name, value, explanation) of what the samples tell about the decisions; none where nothing is decided."""
    if found is None or not any(found.tying.live):
        return []
    told = found.usage.summary()
    live_ND = found.gates_ND[:, torch.tensor(found.tying.live)]
    return [
        ("live decisions", f"{told['decisions']:.0f}", "those that can reach the answer"),
        ("always tuned", f"{told['always_on']:.0f}", "the same for every sample"),
        ("never tuned", f"{told['always_off']:.0f}", "the same for every sample"),
        ("mean entropy", f"{told['mean_entropy_bits']:.2f}", "bits per decision, at most 1"),
        (
            "effective decisions",
            f"{told['effective_decisions']:.1f}",
            "fair coins with as many bits",
        ),
        ("effective rank", f"{effective_rank(live_ND):.1f}", "independent directions (Roy and Vetterli 2007)"),
        ("ways of deciding", f"{patterns(live_ND)}", f"different patterns in {len(live_ND)} {found.noun}"),
    ]


def _kinds(found: Examined | None) -> list[tuple[str, list[KindUsage]]]:
    """Usage by question type and by answer type, or by class where pictures have labels."""
    if found is None:
        return []
    scores = [example.score for example in found.examples]
    questions = [example.question for example in found.examples]

    def by(kinds: list[str]) -> list[KindUsage]:
        return usage_by_kind([kind or "(none)" for kind in kinds], found.gates_NC, scores, found.components)

    if questions[0].question_type == LABEL:
        return [("class", by([next(iter(question.scores), "") for question in questions]))]
    return [
        ("question type", by([question.question_type for question in questions])),
        ("answer type", by([question.answer_type for question in questions])),
    ]


def _per_sample(found: Examined | None) -> Markup:
    if found is None or not any(found.tying.live):
        return Markup("")
    counts = Counter(tuned_per_sample(found.gates_NC, found.components).tolist())
    return histogram(counts, "live components tuned for a sample", found.noun)
