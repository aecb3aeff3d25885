"""Entries of large JSON files: the same as parsing the whole, in little memory, and damage is an error anywhere."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.data.sources import json_stream
from adaptive_ft.data.sources.json_stream import find_value, stream_list, stream_object
from adaptive_ft.errors import UserError

CONTENT: dict[str, Any] = {
    "info": {"list": [1, [2]], "text": 'a "quoted\\" \u00e9 \U0001f600'},
    "questions": [1234567, -1.5e-7, True, None, "", "x, ]}", [], {}, [[0], {"a": {"b": 1}}], 12],
    "data_subtype": "val2014",
}


@pytest.fixture(params=[1, 7, 1 << 18])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few characters at a time, so that every value lies across the border of two chunks."""
    monkeypatch.setattr(json_stream, "_CHUNK", request.param)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "q.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("indent", [None, 3])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_entries_are_those_of_the_whole(indent: int | None, ascii_only: bool, tmp_path: Path) -> None:
    text = json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only)
    for packed in (text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
        path = write(tmp_path, packed)
        assert list(stream_list(path, "", "questions")) == CONTENT["questions"]
        assert dict(stream_object(path, "")) == CONTENT
        assert find_value(path, "data_subtype") == "val2014"
        assert find_value(path, "absent") is None
    path = write(tmp_path, json.dumps(CONTENT["questions"], indent=indent))
    assert list(stream_list(path, "")) == CONTENT["questions"]
    assert find_value(path, "data_subtype") is None
    assert list(stream_list(write(tmp_path, "[]"), "")) == []
    assert list(stream_object(write(tmp_path, " { } "), "")) == []


@pytest.mark.usefixtures("chunk")
def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    text = json.dumps(CONTENT)
    for end in range(len(text)):
        with pytest.raises(UserError, match=r"q\.json' is not readable JSON"):
            list(stream_list(write(tmp_path, text[:end]), "", "questions"))


@pytest.mark.parametrize(
    "text", ["[1 2]", "[1,]", "[1}", '{"a" 1}', '{"a": 1,}', "{1: 2}", "[1] 2", "[", "", "[1", b"[\xff]", "[" * 100_000]
)
def test_damage_is_refused_as_when_it_is_parsed_whole(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises((ValueError, RecursionError)):
        json.loads(text)
    for read in (stream_list, stream_object):
        with pytest.raises(UserError):
            list(read(write(tmp_path, text), ""))


def test_an_entry_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_LARGEST", 1 << 19)
    path = write(tmp_path, '[1, "' + "x" * (1 << 24))
    tracemalloc.start()
    with pytest.raises(UserError, match="is not readable JSON"):
        list(stream_list(path, ""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 12)
    entry = json.dumps({"question_id": 1, "answers": [{"answer": "yes", "answer_id": 1}] * 10})
    path = write(tmp_path, f"[{', '.join([entry] * 2_000)}]")
    tracemalloc.start()
    assert sum(1 for _ in stream_list(path, "")) == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2
