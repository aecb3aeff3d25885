"""The files of an adapted model: whole or not at all, readable or refused, and the hash of weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptive_ft.adaptive_files import ENTRIES, check_entries, hash_weights, read_description, read_files, write_files
from adaptive_ft.errors import UserError

WEIGHTS = {"b": torch.arange(4.0).view(2, 2), "a": torch.ones(3, dtype=torch.bfloat16)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_files(tmp_path / "new", {"decisions": ["x"]}, WEIGHTS)
    description, weights = read_files(tmp_path / "new")
    assert description["decisions"] == ["x"]
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert len(list((tmp_path / "new").iterdir())) == 2, "no temporary file stays behind"


def test_the_description_is_read_without_the_weights(tmp_path: Path) -> None:
    """Megabytes of weights need not be read and hashed to learn what they were trained from."""
    write_files(tmp_path, {"frozen_sha256": "f00d"}, WEIGHTS)
    (tmp_path / "adaptive_model.safetensors").unlink()
    assert read_description(tmp_path)["frozen_sha256"] == "f00d"


@pytest.mark.parametrize("name", ["adaptive_config.json", "adaptive_model.safetensors"])
def test_missing_and_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {}, WEIGHTS)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        read_files(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "holds no options"),
        ('{"format": 1}', "format 1 .*reads format 2"),
        ("[" * 100_000, "is damaged: maximum recursion depth"),
    ],
    ids=["list", "format", "deep"],
)
def test_a_description_of_another_form_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "adaptive_config.json").write_text(content)
    with pytest.raises(UserError, match=told):
        read_description(tmp_path)


BASE = {"library": "transformers", "class": "ViTModel", "name": ""}
ENTIRE = {"base_model": BASE, "adaptive": {}, "frozen_sha256": None, "decisions": ["a"], "global_decisions": [0, 1]}
WRONG: dict[str, list[Any]] = {
    "base_model": [
        "ViTModel",
        {**BASE, "class": None},
        {"name": ""},
        {**BASE, "config": {}},
        {**BASE, "config": []},
        {**BASE, "revision": 1},
    ],
    "adaptive": ["spottune"],
    "frozen_sha256": [5],
    "decisions": ["a", [1], None],
    "global_decisions": [["a"], [2], [True], 1, [0.0]],
}


@pytest.mark.parametrize("name", ENTRIES)
def test_missing_entries_are_named_with_their_file(name: str, tmp_path: Path) -> None:
    check_entries(ENTIRE, tmp_path)
    without = {other: value for other, value in ENTIRE.items() if other != name}
    with pytest.raises(UserError, match=rf"'{tmp_path}/adaptive_config\.json' has no '{name}': take the file as"):
        check_entries(without, tmp_path)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_entries_of_another_kind_are_named_with_what_they_must_be(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"adaptive_config\.json': '{name}' is .*; it must be "):
        check_entries({**ENTIRE, name: value}, tmp_path)


def test_the_hash_sees_names_values_shapes_and_dtypes_but_not_order() -> None:
    reference = hash_weights(WEIGHTS)
    assert hash_weights(dict(reversed(WEIGHTS.items()))) == reference
    others = (
        {**WEIGHTS, "a": torch.ones(3, dtype=torch.float32)},
        {**WEIGHTS, "b": WEIGHTS["b"].flatten()},
        {**WEIGHTS, "b": WEIGHTS["b"].T.contiguous()},
        {"b": WEIGHTS["b"], "c": WEIGHTS["a"]},
    )
    assert reference not in {hash_weights(other) for other in others}
    assert hash_weights({**WEIGHTS, "b": WEIGHTS["b"].T.contiguous().T}) == reference, "strides do not count"
