"""A run's folder read again: finished, unfinished, torn by a kill, damaged."""

import json
from pathlib import Path

import pytest

from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.errors import UserError
from tests.analysis.report.conftest import COMPONENTS, MakeRun, shares_of


def test_a_finished_run_is_read_whole(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert (run.name, run.strategy, run.finished, run.start_score) == ("first", "spottune", True, 0.3)
    assert [record["val_score"] for record in run.epochs] == pytest.approx([0.3, 0.4, 0.5])
    assert run.losses == [(5, 4.0), (15, 2.0), (25, 4 / 3)]
    assert run.speed == 200  # the median of three windows
    assert run.components == COMPONENTS
    assert run.usage["train"][2] == tuple(shares_of(2, "train"))


def test_a_run_that_goes_on_has_no_summary(make_run: MakeRun) -> None:
    run = read_run(make_run(finished=False))
    assert not run.finished
    assert len(run.epochs) == 3


def test_a_run_before_its_first_epoch_is_empty(make_run: MakeRun) -> None:
    folder = make_run(epochs=0, finished=False)
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert (run.epochs, run.losses, run.speed, run.components, run.usage) == ([], [], None, None, {})


def test_a_line_torn_by_a_kill_ends_the_reading(make_run: MakeRun) -> None:
    folder = make_run()
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole[:-20])
    assert len(read_run(folder).epochs) == 2


def test_an_epoch_repeated_after_a_resume_counts_once(make_run: MakeRun) -> None:
    folder = make_run()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 30, "epoch/epoch": 3, "epoch/val_score": 0.9}) + "\n")
    assert [record["val_score"] for record in read_run(folder).epochs][2:] == [0.9]


def test_no_run_folder_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: it has no config\.yaml"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.yaml", "a: [", r"config\.yaml cannot be read"),
        ("config.yaml", "- 1", r"config\.yaml holds no settings"),
        ("summary.json", "{", r"summary\.json' is damaged: it is not JSON"),
        ("summary.json", "[]", r"summary\.json' is damaged: it holds no"),
        ("plots/usage_val_epoch02.csv", "layer\nx\n", r"usage_val_epoch02\.csv cannot be read"),
    ],
)
def test_a_damaged_file_is_named(make_run: MakeRun, file: str, content: str, sentence: str) -> None:
    folder = make_run()
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_run(folder)


def test_tables_of_two_models_in_one_folder_are_refused(make_run: MakeRun) -> None:
    folder = make_run()
    path = folder / "plots/usage_val_epoch02.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"usage_val_epoch02\.csv lists other components"):
        read_run(folder)
