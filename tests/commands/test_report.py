"""adaptive-ft report on real runs: whole, without a checkpoint, and what is no run."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.analysis.invariance_pictures import stir_heatmaps
from adaptive_ft.analysis.pictures import save_figure
from adaptive_ft.analysis.report.cards import data_address
from adaptive_ft.commands.report import Command
from adaptive_ft.data.reading.choice import all_questions
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder


def test_a_finished_run_becomes_a_page(
    finished_run: RunFolder, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its question types, its examples with pictures, its versions; the same page twice but for the time."""
    output = tmp_path / "page.html"
    Command([finished_run.path], output=output, samples=20, examples=3).run()
    html = output.read_text(encoding="utf-8")
    assert html.count('class="card"') == html.count("<img ") == 3
    asked = list(csv.DictReader((tmp_path / "page_files/finished_decisions.csv").open(encoding="utf-8")))
    known = {
        str(question.question_id): question for question in all_questions(ShardSet.open(workplace / "world/target/val"))
    }
    assert len(asked) == 20
    assert all(known[row["question_id"]].text == row["question"] for row in asked)
    assert "Versions it was trained with" in html
    told = capsys.readouterr().out
    assert f"report     {output}" in told
    assert "No examples" not in told


def test_a_run_without_checkpoint_is_reported_as_far_as_it_goes(
    finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, on the terminal and in the page; the page lies in the run's folder by default."""
    folder = tmp_path / "young"
    shutil.copytree(finished_run.path, folder, ignore=shutil.ignore_patterns("checkpoints", "summary.json"))
    Command([folder]).run()
    reason = f"&#39;{folder}&#39; has no best checkpoint: it has none at all yet."
    sentence = f"No examples, and no usage by kind of question: {reason}"
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert sentence in html
    assert "not finished: 1 epochs so far" in html
    assert "What was tuned where" in html
    assert sentence.replace("&#39;", "'") in capsys.readouterr().out


def test_a_folder_among_several_that_is_no_run_is_left_out(
    finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As runs/compare is of runs/*; where none of them is a run, that is an error."""
    Command([tmp_path, finished_run.path], output=tmp_path / "page.html", samples=0).run()
    assert f"'{tmp_path}' is left out: it is no run folder." in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'.*typo' is not a run folder"):
        Command([finished_run.path, tmp_path / "typo"], output=tmp_path / "page.html", samples=0).run()
    with pytest.raises(UserError, match="is not a run folder"):
        Command([tmp_path], output=tmp_path / "page.html", samples=0).run()


def test_nothing_is_asked_with_no_samples(finished_run: RunFolder, tmp_path: Path) -> None:
    Command([finished_run.path], output=tmp_path / "page.html", samples=0).run()
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How the decisions are made" not in html
    assert '<p class="notice">' not in html


def test_the_invariances_measured_of_a_run_stand_in_its_page(finished_run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    shutil.copytree(finished_run.path, folder, ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "invariance").mkdir()
    save_figure(stir_heatmaps({"fine-tuned": np.eye(2)}, ("0", "1"), "pretrained"), folder / "invariance/stir.png")
    Command([folder], samples=0).run()
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "Invariances kept: measured" in html
    assert data_address((folder / "invariance/stir.png").read_bytes()) in html


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"runs": []}, r"Name run folders: adaptive-ft report runs/\*"),
        ({"runs": [Path("nowhere")]}, "'nowhere' is not a run folder"),
        ({"samples": -1}, "--samples and --examples count"),
        ({"output": Path("gone/page.html")}, "--output 'gone/page.html': there is no folder 'gone'"),
    ],
)
def test_mistakes_are_one_sentence(finished_run: RunFolder, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Command(**{"runs": [finished_run.path], **options}).run()
