"""adaptive-ft tokenizer: a tokenizer of the questions, and places and sizes it cannot have."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from adaptive_ft.cli import run_command
from adaptive_ft.errors import UserError


def train(folder: Path, output: str, *options: str) -> Path:
    entries = [{"question_id": 1, "img_id": "a", "sent": "Is it red?", "label": {"yes": 1}}]
    (folder / "q.json").write_text(json.dumps(entries))
    source = ["--source.lxmert_json", str(folder / "q.json")]
    run_command(["tokenizer", "--output", str(folder / output), *source, *options])
    return folder / output


def test_the_words_of_the_questions_are_read(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(train(tmp_path, "new/tokenizer"))
    assert tokenizer.tokenize("is it RED?") == ["is", "it", "red", "?"]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        (".", (), "is not empty; give a new or empty folder"),
        ("q.json", (), r"q\.json' is a file; give a new or empty folder"),
        ("q.json/x", (), r"'.*q\.json/x' cannot be made: Not a directory; name another folder"),
        ("new", ("--vocab_size", "-5"), "--vocab_size is -5; it must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(output: str, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path, output, *options)
