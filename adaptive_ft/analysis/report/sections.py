"""What a page says of one run: numbers, curves, maps, kinds of questions and examples, each empty where the run does
not have it.

Shapes: N samples, C components, D decisions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from markupsafe import Markup

from adaptive_ft.analysis.decisions import KindUsage, effective_rank, patterns, tuned_per_sample, usage_by_kind
from adaptive_ft.analysis.examined import Examined
from adaptive_ft.analysis.report.cards import LABEL, Card, cards
from adaptive_ft.analysis.report.charts import Line, histogram, line_chart
from adaptive_ft.analysis.report.maps import heat_map
from adaptive_ft.analysis.report.run_files import RunFiles
from adaptive_ft.analysis.report.strategies_table import cells, flattened, numbers
from adaptive_ft.analysis.usage import decision_shares, summary_of
from adaptive_ft.components import ComponentMap
from adaptive_ft.strategies import tie

SPLITS = {"val": "validation", "train": "training"}
HUNDRED = 100.0


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
    """A drawing with its title and the names of its lines: (name, tone, dashed)."""

    title: str
    drawn: Markup
    legend: list[tuple[str, int, bool]] = field(default_factory=list)


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
    examined: Examined | None
    config: list[tuple[str, str]]
    versions: Mapping[str, str]


def section(told: Told, examples: int) -> Section:
    """Everything there is to say about one run."""
    run, found = told.run, told.examined
    row = numbers(run, found.parameters if found else None)
    distance, farthest = _distance(found)
    return Section(
        name=run.name,
        finished=run.finished,
        notes=told.notes,
        row=row,
        cells=cells(row),
        tiles=_tiles(found),
        figures=[figure for figure in (_scores(run), _loss(run), _tuned(run), _deciding(run)) if figure.drawn],
        usage=_usage_map(run),
        distance=distance,
        farthest=farthest,
        kinds=_kinds(found),
        layers=found.components.layers if found else (),
        per_sample=_per_sample(found),
        cards=cards(found, examples) if found else [],
        examined=found,
        config=flattened(run.config),
        versions=(run.summary or {}).get("versions", {}),
    )


def compared(runs: Sequence[RunFiles]) -> Figure:
    """The validation score of every run over the epochs."""
    lines = [Line(run.name, _percents(run, "val_score"), number) for number, run in enumerate(runs)]
    return _figure("Validation score (%)", lines)


def _figure(
    title: str, lines: Sequence[Line], x_name: str = "epoch", decimals: int = 1, between: bool = False
) -> Figure:
    shown = [line for line in lines if line.points]
    legend = [(line.name, line.tone, line.dashed) for line in shown]
    return Figure(title, line_chart(shown, x_name, decimals, between), legend if len(legend) > 1 else [])


def _percents(run: RunFiles, name: str) -> list[tuple[float, float]]:
    return [(record["epoch"], HUNDRED * record[name]) for record in run.epochs if record.get(name) is not None]


def _scores(run: RunFiles) -> Figure:
    val = _percents(run, "val_score")
    lines = [Line("training", _percents(run, "train_score"), 0), Line("validation", val, 1)]
    if val and run.start_score is not None:
        start = HUNDRED * run.start_score
        lines.append(Line("validation before training", [(val[0][0], start), (val[-1][0], start)], 7, dashed=True))
    return _figure("Score (%)", lines, between=True)


def _loss(run: RunFiles) -> Figure:
    return _figure("Training loss", [Line("loss", run.losses, 0)], x_name="update", decimals=3)


def _tuned(run: RunFiles) -> Figure:
    if not run.usage:
        return Figure("", Markup(""))
    lines = [
        Line(SPLITS[split], _percents(run, f"tuned_share_{split}"), tone) for tone, split in enumerate(["train", "val"])
    ]
    return _figure("Share of components tuned (%)", lines)


def _deciding(run: RunFiles) -> Figure:
    """How many decisions depend on the input, from the shares of each epoch."""
    if run.components is None or "val" not in run.usage:
        return Figure("", Markup(""))
    tying = tie(run.strategy, run.components)
    counted: dict[str, list[tuple[float, float]]] = {"depend on the input": [], "always tuned": [], "never tuned": []}
    for epoch, shares_C in run.usage["val"].items():
        told = summary_of(tying, decision_shares(tying, torch.tensor(shares_C, dtype=torch.float64)))
        fixed = (told["always_on"], told["always_off"])
        for points, count in zip(counted.values(), (told["decisions"] - sum(fixed), *fixed), strict=True):
            points.append((epoch, count))
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
    shares = {split: [[round(share, 4) for share in run.usage[split][epoch]] for epoch in epochs] for split in splits}
    return UsageMap(
        drawn=heat_map(first, run.components, _words(run.components, [f"{HUNDRED * share:.1f} %" for share in first])),
        epochs=epochs,
        splits={split: SPLITS[split] for split in splits},
        shares=json.dumps({"names": run.components.names, "epochs": epochs, "splits": shares}).replace("<", "\\u003c"),
    )


def _words(components: ComponentMap, values: Sequence[str]) -> list[str]:
    """What each cell says when it is pointed at."""
    return [
        f"{component.name}: {value if live else 'dead, cannot reach the answer'}"
        for component, live, value in zip(components, components.live, values, strict=True)
    ]


def _distance(found: Examined | None) -> tuple[Markup, float]:
    """Relative distances, coloured from 0 to the largest."""
    if found is None or found.distance_C is None or not found.distance_C.any():
        return Markup(""), 0.0
    top = found.distance_C.max().item()
    told = _words(found.components, [f"{value:.3f}" for value in found.distance_C.tolist()])
    return heat_map((found.distance_C / top).tolist(), found.components, told), top


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
