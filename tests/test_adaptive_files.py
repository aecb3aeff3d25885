"""The files of an adapted model: whole or not at all, readable or refused, and the hash of weights."""

from pathlib import Path

import pytest
import torch

from adaptive_ft.adaptive_files import hash_weights, read_files, whole_file, write_files
from adaptive_ft.errors import UserError

WEIGHTS = {"b": torch.arange(4.0).view(2, 2), "a": torch.ones(3, dtype=torch.bfloat16)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_files(tmp_path / "new", {"decisions": ["x"]}, WEIGHTS)
    description, weights = read_files(tmp_path / "new")
    assert description["decisions"] == ["x"]
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert len(list((tmp_path / "new").iterdir())) == 2, "no temporary file stays behind"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def write_and_break_off() -> None:
        with whole_file(file) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_break_off()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


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
