"""adaptive-ft: the commands it knows, and bad source files refused in one sentence with nothing left behind."""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_ft.cli import COMMANDS, main

Run = Callable[..., int]

IMAGE, NUMBER = "COCO_train2014_000000000025", 25000
GOOD_BOXES = [[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 40.0, 30.0]]
GOOD_FEATURES = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program with these words; its exit code."""

    def call(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["adaptive-ft", *map(str, words)])
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
        return 0

    return call


def write_sources(
    place: Path,
    boxes: list[list[float]] = GOOD_BOXES,
    features: list[list[float]] = GOOD_FEATURES,
    answers: int | None = 10,
) -> list[str]:
    """One image of 40 x 30 pixels with one question in the published formats; the options that name the files."""
    arrays = [base64.b64encode(np.array(part, dtype=np.float32).tobytes()).decode() for part in (boxes, features)]
    columns = [IMAGE, "30", "40", "", "", "", "", str(len(boxes)), *arrays]
    (place / "features.tsv").write_text("\t".join(columns) + "\n")
    question = {"question_id": NUMBER, "image_id": 25, "question": "what colour is it?"}
    (place / "questions.json").write_text(json.dumps({"data_subtype": "train2014", "questions": [question]}))
    given: dict[str, Any] = {"question_id": NUMBER, "answers": [{"answer": "red"}] * (answers or 0)}
    entries = [] if answers is None else [given]
    (place / "annotations.json").write_text(json.dumps({"annotations": entries}))
    return [
        *("--features", str(place / "features.tsv"), "--source.questions", str(place / "questions.json")),
        *("--source.annotations", str(place / "annotations.json"), "--min_answer_count", "1"),
        *("--output", str(place / "out")),
    ]


def test_a_table_of_no_runs_says_how_to_name_some(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Not an empty list of what was no run."""
    assert run("table") == 2
    assert capsys.readouterr().err == "error: Name run folders: adaptive-ft table runs/*\n"


@pytest.mark.parametrize(
    "words",
    [
        ("shards", "--output", "kept"),
        ("shards", "--output", "kept", "--pictures", "nowhere"),
        ("merge", "kept", "a", "b"),
        ("reshard", "a", "kept"),
        ("tokenizer", "--output", "kept"),
        ("world", "--folder", "kept"),
        ("pictures", "--folder", "kept"),
    ],
)
def test_an_output_that_is_not_empty_is_refused_before_anything_starts(
    words: tuple[str, ...],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence and no progress bar; what the command would read need not even be there."""
    monkeypatch.chdir(tmp_path)
    Path("kept").mkdir()
    Path("kept/precious.txt").write_text("keep")
    assert run(*words) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "kept' is not empty" in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "precious.txt"]
    Path("file").write_text("keep")
    assert run(*("file" if word == "kept" else word for word in words)) == 2
    told = capsys.readouterr().err
    assert "file' is a file; give a new or empty folder" in told
    assert told.count("\n") == 1


def test_good_sources_become_shards(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files the next test spoils are right as they are."""
    assert run("shards", *write_sources(tmp_path)) == 0
    assert "1 images, 1 questions, 1 shards, 1 answers" in capsys.readouterr().out
    assert run("verify", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("words", "tokenizer: that of the folder 'words', copied beside the shards"),
        ("wrods", "tokenizer: 'wrods', taken for a hub id, as there is no such folder"),
    ],
)
def test_the_recorded_tokenizer_is_told(
    name: str, told: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt folder passes for a hub id; the line shows it."""
    monkeypatch.chdir(tmp_path)
    sources = write_sources(tmp_path)
    assert run("tokenizer", "--output", "words", "--source.questions", "questions.json") == 0
    assert run("shards", *sources, "--tokenizer", name) == 0
    assert told in capsys.readouterr().out.splitlines()


NAN = float("nan")
SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"features": [[1.0, NAN, 3.0], [4.0, 5.0, 6.0]]}, "the features of region 0 hold NaN or infinity"),
    "infinity": ({"features": [[1.0, 2.0, 3.0], [4.0, float("inf"), 6.0]]}, "the features of region 1 hold NaN"),
    "outside": ({"boxes": [[0, 0, 10, 10], [5, 5, 60, 30]]}, "box 1 [5.0, 5.0, 60.0, 30.0] lies outside the 40 x 30"),
    "empty_box": ({"boxes": [[0, 0, 10, 10], [5, 5, 5, 30]]}, "box 1 [5.0, 5.0, 5.0, 30.0] is empty"),
    "nan_box": ({"boxes": [[0, 0, 10, 10], [5, NAN, 9, 30]]}, "box 1"),
    "no_answers": ({"answers": 0}, f"question {NUMBER} of"),
    "unanswered": ({"answers": None}, f"question {NUMBER} of"),
    "nine_answers": ({"answers": 9}, "9 answers, expected 10"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_bad_sources_leave_nothing(case: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence that names the place, exit code 2, and neither the output folder nor an unfinished one."""
    spoilt, sentence = SPOILT[case]
    sources = write_sources(tmp_path, **spoilt)
    before = sorted(tmp_path.iterdir())
    assert run("shards", *sources) == 2
    told = capsys.readouterr().err
    lines = [line for line in told.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, told
    assert sentence in lines[0]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["shard"], "error: There is no command 'shard'. Did you mean 'shards'?"),
        (["verify", "nowhere"], "error: there is no folder 'nowhere'"),
        (["world", "--folder", "."], "error: '{here}' cannot be made anew while the program runs in it"),
        (["shards", "--output", "out", "--tokenizer", "./tokenzier"], "error: --tokenizer './tokenzier' is no folder"),
        (
            ["shards", "--output", "out", "--like", "a", "--tokenizer", "b"],
            "error: --like takes the tokenizer of those",
        ),
        (["tokenizer", "--output", "out"], "error: Name the questions in one form: --source.questions"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], sentence: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Exit code 2, one line, nothing made."""
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    told = capsys.readouterr().err
    assert told.startswith(sentence.format(here=tmp_path))
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["world", "--fodler", "x"], "--folder"),
        (["world", "--world.num-regions", "1"], "num_regions is 1"),
    ],
)
def test_a_mistaken_option_is_boxed(
    words: list[str], sentence: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser's own words name the nearest option, or say why a value is refused; exit code 2."""
    assert run(*words) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_all_are_listed(words: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, exit code 0."""
    assert run(*words) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Every name in the list is a module with options."""
    assert run(name, "--help") == 0
    assert f"usage: adaptive-ft {name}" in capsys.readouterr().out
