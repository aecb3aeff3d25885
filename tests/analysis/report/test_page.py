"""The page: parsed as HTML, whole for whole and for young runs, with everything inside and nothing from outside."""

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from adaptive_ft.analysis.report.cards import data_address
from adaptive_ft.analysis.report.page import page, write_report
from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.sections import Told
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError
from tests.analysis.report.conftest import MakeRun, examined_of, example, picture

MADE = {"made": "today"}
VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """Collects tags with their attributes and all text; fails at a tag that is closed in another's place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_whole_run_has_every_section(told: Told) -> None:
    outline = Outline(page([told], 4, MADE))
    for heading in (
        "Strategies", "Training", "What was tuned where", "How the decisions are made",
        "Distance from the pretrained weights", "Usage by question type and answer type", "Examples", "Configuration",
        "Versions it was trained with",
    ):  # fmt: skip
        assert heading in outline.text, heading
    assert len(outline.of("img")) == 4
    assert "what is number 1?" in outline.text
    (slider,) = [given for given in outline.of("input") if given["type"] == "range"]
    assert (slider["max"], slider["value"]) == ("2", "2")


def test_nothing_is_fetched(told: Told) -> None:
    """Every address is one of data: or of the page itself, and the page forbids all others."""
    html = page([told, told], 4, MADE)
    for _, attributes in Outline(html).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_a_picture_stands_in_the_page_once_however_many_runs_show_it(told: Told) -> None:
    html = page([told, told], 4, MADE)
    assert len(Outline(html).of("img")) == 8
    assert html.count(data_address(picture())) == 1


def test_no_script_runs_but_the_page_s_own(told: Told) -> None:
    """The policy names the hash of the one script that is no data."""
    html = page([told], 4, MADE)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [given["content"] for given in Outline(html).of("meta") if "http-equiv" in given]
    assert f"script-src 'sha256-{digest}'" in str(policy).split("; ")


def test_words_of_the_data_stay_words(told: Told) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    asked = Question(1, evil, evil, evil, (), {evil: 1.0})
    found = examined_of([example(1, question=asked, image_id='"><b>', prediction=evil)], torch.ones(1, 8))
    run = replace(told.run, config={"name": evil, "adapt": {"strategy": "spottune", evil: evil}})
    html = page([Told(run, found, notes=(evil,))], 1, MADE)
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "<b>" not in html.replace("<b>&lt;/script", "")  # the prediction itself stands in a <b>
    assert evil in Outline(html).text


def test_a_run_that_has_not_finished_is_shown_as_such(make_run: MakeRun) -> None:
    folder = make_run(epochs=2, finished=False)
    outline = Outline(page([Told(read_run(folder), notes=("It has no checkpoint.",))], 4, MADE))
    assert "not finished: 2 epochs so far" in outline.text
    assert "It has no checkpoint." in outline.text
    assert "What was tuned where" in outline.text
    assert "Examples" not in outline.text.replace("Examples/s", "")


def test_a_run_before_its_first_epoch_says_so(make_run: MakeRun) -> None:
    assert "No epoch of this run has ended yet." in page([Told(read_run(make_run(epochs=0, finished=False)))], 4, MADE)


def test_runs_are_compared(told: Told, make_run: MakeRun) -> None:
    outline = Outline(page([told, Told(read_run(make_run("second run", finished=False)))], 4, MADE))
    assert "2 runs compared" in outline.text
    assert "Options that differ" in outline.text
    assert [link["href"] for link in outline.of("a")].count("#run-2") == 2
    names = [given["name"] for given in outline.of("input") if given["type"] == "radio"]
    assert names == ["split-1", "split-1", "split-2", "split-2"]  # one run's switch leaves the other's alone


def test_a_run_that_cannot_be_told_leaves_the_others_their_sections(told: Told, make_run: MakeRun) -> None:
    outline = Outline(page([Told(read_run(make_run("odd", strategy="spotune"))), told], 4, MADE))
    assert "2 runs compared" in outline.text
    assert "unknown strategy 'spotune'" in outline.text
    assert outline.text.count("What was tuned where") == 2
    assert outline.text.count("Decisions on the validation data") == 1


def test_tables_and_pictures_lie_beside_the_page(told: Told, tmp_path: Path) -> None:
    beside = write_report([told], tmp_path / "page.html", 4, MADE)
    assert beside == tmp_path / "page_files"
    assert {path.name for path in beside.iterdir()} == {
        "strategies.csv", "first_decisions.csv", "first_kinds.csv", "first_distance.csv", "first_curves.png",
        "first_usage_val.png",
    }  # fmt: skip
    rows = list(csv.DictReader((beside / "first_decisions.csv").open()))
    assert [row["decisions"] for row in rows] == ["00000000", "11111111", "10001001", "11001000"]
    (kind, _) = csv.DictReader((beside / "first_kinds.csv").open())
    assert (kind["kind"], kind["samples"], float(kind["layer.0"])) == ("what is", "4", pytest.approx(7 / 16))
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_two_runs_of_one_name_do_not_overwrite_each_other(told: Told, tmp_path: Path) -> None:
    beside = write_report([told, told], tmp_path / "page.html", 0, MADE)
    assert {path.name for path in beside.glob("*_kinds.csv")} == {"first_1_kinds.csv", "first_2_kinds.csv"}


def test_figures_of_invariances_stand_in_the_page(told: Told, tmp_path: Path) -> None:
    """What the measurement compared stands above them; a folder without figures is named before all is written."""
    (tmp_path / "kept").mkdir()
    with pytest.raises(UserError, match=r"kept' has no stir\.png or retention_and_usage\.png"):
        write_report([told], tmp_path / "page.html", 0, MADE, [tmp_path / "kept"])
    assert not (tmp_path / "page_files").exists()
    (tmp_path / "kept/stir.png").write_bytes(picture())
    outline = Outline(page([told], 0, MADE, [tmp_path / "kept"]))
    assert "Invariances kept: kept" in outline.text
    assert [image["alt"] for image in outline.of("img")] == [
        "kept: shared invariances (STIR), layer by layer, inverted on the pretrained model"
    ]
    assert "compared" not in outline.text.casefold()
    compared = {"pretrained": {"name": "vit"}, "shards": "val", "images": 9, "device": "cpu"}
    (tmp_path / "kept/summary.json").write_text(json.dumps({"compared": compared}))
    text = Outline(page([told], 0, MADE, [tmp_path / "kept"])).text
    assert "Compared: pretrained vit · 9 of val · cpu." in text
