"""Torch files as plain tensors: every kind of damage, and every class that is refused, in one line."""

import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adaptive_ft.errors import UserError
from adaptive_ft.models.torch_files import read_torch_file

NO_TORCH_FILE = "it is no torch file, or a damaged one"


def test_tensors_in_plain_containers_come_back(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3), "b": {"c": [1, 2.0, "three"]}}, tmp_path / "a.pth")
    content = read_torch_file(tmp_path / "a.pth")
    assert isinstance(content, dict)
    assert content["a"].tolist() == [0, 1, 2]
    assert content["b"] == {"c": [1, 2.0, "three"]}


def old_form(file: Path) -> bytes:
    """As torch saved before its zip files."""
    torch.save({"weights": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)
    return file.read_bytes()


def storage_of_no_type(file: Path) -> bytes:
    """A zip whose pickle names a storage's type by a number: a changed byte in the middle of a whole file."""
    torch.save({"weights": torch.zeros(3)}, file)
    with zipfile.ZipFile(file) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    parts["a/data.pkl"] = b"\x80\x02(X\x07\x00\x00\x00storageK\x00X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x03tQ."
    with zipfile.ZipFile(file, "w") as damaged:
        for name, content in parts.items():
            damaged.writestr(name, content)
    return file.read_bytes()


# Between them seven errors of torch: EOFError, UnpicklingError, IndexError, UnicodeDecodeError, KeyError, TypeError and
# AttributeError.
DAMAGED: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda file: b"",
    "text": lambda file: b"info about the weights",
    "cut": lambda file: old_form(file)[:60],
    "pops nothing": lambda file: b"\x80\x02a.",
    "no letters": lambda file: b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "no memo": lambda file: b"\x80\x02h\x69.",
    "no key": lambda file: b"\x80\x02}}]s.",
    "no type": storage_of_no_type,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_no_torch_file_is_told(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(DAMAGED[damage](file))
    with pytest.raises(UserError, match=f"cannot read '{file}': {NO_TORCH_FILE}"):
        read_torch_file(file)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old form"])
def test_the_class_that_is_refused_is_named(new: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({"args": Namespace(lr=1)}, file, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=r"it holds 'argparse\.Namespace'; only tensors and plain containers") as caught:
        read_torch_file(file)
    assert "\n" not in str(caught.value)


def test_other_pickles_and_broken_zips_are_told_in_torchs_words(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(UserError, match="Invalid magic number"):
        read_torch_file(file)
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match="failed finding central directory"):
        read_torch_file(file)
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_torch_file(tmp_path / "missing.pth")
