"""The page itself: one HTML file with its style, its script and all pictures inside, and the tables beside it.

The page forbids itself every address but data: ones, so that nothing of it can depend on a network, and every script
but its own, so that nothing of the data can become one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adaptive_ft.analysis.pictures import save_figure, training_curves
from adaptive_ft.analysis.report.cards import data_address, picture_name
from adaptive_ft.analysis.report.compared_table import ComparedTable
from adaptive_ft.analysis.report.measurements import read_measurement
from adaptive_ft.analysis.report.sections import Section, Told, compared, section
from adaptive_ft.analysis.report.strategies_table import COLUMNS, differences, numbers, to_beat
from adaptive_ft.whole_files import write_csv, write_whole

TEMPLATE = "page.html.j2"


def page(
    told: Sequence[Told],
    examples: int,
    made: dict[str, str],
    invariances: Sequence[Path] = (),
    comparison: ComparedTable | None = None,
) -> str:
    """The HTML of a report on some runs with up to `examples` examples each; `made` says when and by what.

    `comparison` is the table of several seeds, which comes first; `invariances` are folders of adaptive-ft invariance;
    raises UserError for one without its figures.
    """
    environment = Environment(
        loader=PackageLoader("adaptive_ft.analysis.report", "."),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    runs = [one.run for one in told]
    sections = [section(one, examples) for one in told]
    script = _own_file("page.js")
    return environment.get_template(TEMPLATE).render(
        sections=sections,
        compared=compared(runs),
        to_beat=to_beat(runs),
        differences=differences([run.config for run in runs]),
        style=_own_file("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        pictures=_pictures(sections),
        made=made,
        comparison=comparison,
        comparison_figure=data_address(comparison.figure) if comparison and comparison.figure else None,
        measurements=[read_measurement(folder) for folder in invariances],
    )


def write_report(
    told: Sequence[Told],
    output: Path,
    examples: int,
    made: dict[str, str],
    invariances: Sequence[Path] = (),
    comparison: ComparedTable | None = None,
) -> Path:
    """Write the page to `output`, and its tables and pictures to the folder beside it, which is returned.

    strategies.csv; per run NAME_decisions.csv (the samples), NAME_kinds.csv, NAME_distance.csv, and PNGs of the curves
    and of the last heatmap.
    """
    html = page(told, examples, made, invariances, comparison)
    beside = output.with_name(f"{output.stem}_files")
    beside.mkdir(parents=True, exist_ok=True)
    rows = [numbers(one.run, one.examined.parameters if one.examined else None) for one in told]
    write_csv(beside / "strategies.csv", COLUMNS, rows)
    for number, one in enumerate(told, start=1):
        is_only = [other.run.name for other in told].count(one.run.name) == 1
        _write_run(one, beside, one.run.name if is_only else f"{one.run.name}_{number}")
    write_whole(output, html)
    return beside


def _pictures(sections: Iterable[Section]) -> Markup:
    """The data: address of every picture by its name, as JSON; equal ones of different runs are one."""
    shown = [card.picture for own in sections for card in own.cards if card.picture is not None]
    # Markup as it stands: names are hexadecimal, addresses base64.
    return Markup(json.dumps({picture_name(picture): data_address(picture) for picture in shown}))


def _write_run(told: Told, beside: Path, name: str) -> None:
    """One run's tables and pictures."""
    run, found = told.run, told.examined
    if run.epochs:
        save_figure(training_curves(run.epochs), beside / f"{name}_curves.png")
    for split, shares in run.usage.items():
        drawn = run.folder / "plots" / f"usage_{split}_epoch{max(shares):02d}.png"
        if drawn.is_file():
            write_whole(beside / f"{name}_usage_{split}.png", drawn.read_bytes())
    if found is None:
        return
    samples = found.per_sample()
    write_csv(beside / f"{name}_decisions.csv", tuple(samples[0]), samples)
    kinds = [
        {"by": by, "kind": usage.kind, "samples": usage.samples, "tuned_share": usage.tuned_share, "score": usage.score}
        | dict(zip(found.components.layers, usage.by_layer_L, strict=True))
        for by, usages in section(told, 0).kinds
        for usage in usages
    ]
    write_csv(beside / f"{name}_kinds.csv", tuple(kinds[0]), kinds)
    if found.distance_C is not None:
        distances = zip(found.components.names, found.distance_C.tolist(), strict=True)
        write_csv(
            beside / f"{name}_distance.csv",
            ("component", "relative_distance"),
            [{"component": component, "relative_distance": value} for component, value in distances],
        )


def _own_file(name: str) -> Markup:
    """A file of this folder, to stand in the page as it is."""
    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
