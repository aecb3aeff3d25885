"""The strategy table: exact text of both forms, and run folders that are named instead of being fatal."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.analysis.table import markdown_table, read_rows, text_table

SUMMARY: dict[str, Any] = {
    "name": "spottune-light",
    "strategy": "spottune",
    "policy": "light",
    "train_score": 0.8121,
    "val_score": 0.6814,
    "gap": 0.1307,
    "official_accuracy": 0.6799,
    "best_constant": {"answer": "yes", "score": 0.251, "official_accuracy": 0.2502},
    "trainable_parameters": 149_200_000,
    "frozen_parameters": 85_100_000,
    "tuned_share": 0.534,
    "seed": 1,
    "epochs": 3,
    "seconds": 12.5,
}
FROZEN = {
    **SUMMARY,
    "name": "frozen", "strategy": "pretrained_frozen", "policy": None, "train_score": 0.6, "val_score": 0.61,
    "gap": -0.01, "official_accuracy": None, "tuned_share": 0.0, "trainable_parameters": 34_560,
    "frozen_parameters": 1_250_000,
}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two finished runs, one that has not finished, one whose summary is broken, one that lacks a key, and none."""
    texts = {
        "a": json.dumps(SUMMARY),
        "b": json.dumps(FROZEN),
        "broken": '{"name": ',
        "old": json.dumps({key: value for key, value in SUMMARY.items() if key != "gap"}),
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text)
    (tmp_path / "running").mkdir()
    return [tmp_path / name for name in ("a", "running", "b", "broken", "old", "missing")]


def test_markdown_table(folders: list[Path]) -> None:
    rows, _ = read_rows(folders)
    assert markdown_table(rows).splitlines() == [
        "| Run | Strategy | Policy | Train | Val | Gap | Val official | Parameters (M) | Tuned |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| spottune-light | spottune | light | 81.21 | 68.14 | +13.07 | 67.99 | 149.2 + 85.1 | 53 % |",
        "| frozen | pretrained_frozen | – | 60.00 | 61.00 | -1.00 | – | 0.03 + 1.25 | 0 % |",
        "",
        "Scores in percent; parameters trainable + frozen.",
        "Best constant answer: 'yes' 25.10 (official 25.02).",
    ]


def test_every_constant_names_its_runs(folders: list[Path]) -> None:
    """Runs judged on other data have another constant to beat."""
    other = {**FROZEN, "val_data": "0123", "best_constant": {"answer": "no", "score": 0.3, "official_accuracy": None}}
    (folders[2] / "summary.json").write_text(json.dumps(other))
    rows, _ = read_rows([folders[0], folders[2], folders[0]])
    assert text_table(rows).splitlines()[-2:] == [
        "Best constant answer on the validation data of spottune-light, spottune-light: 'yes' 25.10 (official 25.02).",
        "Best constant answer on the validation data of frozen: 'no' 30.00.",
    ]


def test_text_table_is_aligned(folders: list[Path]) -> None:
    rows, _ = read_rows(folders)
    lines = text_table(rows).splitlines()[:4]
    assert lines == [
        "Run             Strategy           Policy  Train    Val     Gap  Val official  Parameters (M)  Tuned",
        "──────────────  ─────────────────  ──────  ─────  ─────  ──────  ────────────  ──────────────  ─────",
        "spottune-light  spottune           light   81.21  68.14  +13.07         67.99    149.2 + 85.1   53 %",
        "frozen          pretrained_frozen  –       60.00  61.00   -1.00             –     0.03 + 1.25    0 %",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "summary.json' is damaged: it holds no JSON object"),
        (b"\xff", "summary.json' is damaged: it is not JSON ('utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "summary.json' is damaged: it is not JSON (maximum recursion depth exceeded"),
        ({"name": 3}, "summary.json has the name 3"),
        ({"gap": "x"}, "summary.json has the gap 'x'"),
        ({"trainable_parameters": None}, "summary.json has the trainable_parameters None"),
        ({"val_data": ["a"]}, "summary.json has the val_data ['a']"),
        ({"best_constant": None}, "summary.json has the best_constant None"),
        ({"best_constant": {"answer": "yes"}}, "summary.json has no 'score'"),
        (
            {"best_constant": {"answer": "yes", "score": "x"}},
            "summary.json has the best_constant {'answer'",
        ),
    ],
)
def test_a_summary_of_another_form_is_told(content: bytes | dict[str, Any], reason: str, folders: list[Path]) -> None:
    written = content if isinstance(content, bytes) else json.dumps({**SUMMARY, **content}).encode()
    (folders[0] / "summary.json").write_bytes(written)
    (folders[1] / "summary.json").mkdir()
    rows, skipped = read_rows(folders[:3])
    assert [row.name for row in rows] == ["frozen"]
    assert reason in skipped[0].reason
    assert skipped[1].reason.endswith("summary.json' cannot be read: Is a directory")


def test_runs_without_a_row_are_named(folders: list[Path]) -> None:
    rows, skipped = read_rows(folders)
    assert [row.name for row in rows] == ["spottune-light", "frozen"]
    reasons = {run.folder.name: run.reason for run in skipped}
    broken = folders[3] / "summary.json"
    assert reasons == {
        "running": "no summary.json: the run has not finished",
        "broken": f"'{broken}' is damaged: it is not JSON (Expecting value: line 1 column 10 (char 9))",
        "old": "summary.json has no 'gap'",
        "missing": "no such folder",
    }
    assert f"Not in the table: {folders[1]} (no summary.json: the run has not finished)." in text_table(rows, skipped)
