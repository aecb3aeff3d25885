"""HDF5 features: what is missing, of the wrong length or damaged is named by file, dataset and image."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.hdf5 import read_hdf5
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError
from tests.data.sources.feature_files import write_hdf5_groups, write_hdf5_packed, write_hdf5_padded

Change = Callable[[Any], None]


def without(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def instead(name: str, value: Any) -> Change:
    def change(file: Any) -> None:
        del file[name]
        file[name] = value

    return change


WRONG: dict[str, tuple[Callable[..., Path], Change, str]] = {
    "no ids": (
        write_hdf5_padded,
        without("image_ids"),
        r"padded\.h5 does not name its images .*add a dataset",
    ),
    "few ids": (write_hdf5_padded, instead("image_ids", ["a"]), r"'/num_boxes' has shape \[7\], expected 1 rows"),
    "no boxes": (write_hdf5_padded, without("boxes"), r"padded\.h5 has no dataset 'boxes' \(or .*; found: features"),
    "few boxes": (write_hdf5_padded, instead("boxes", np.zeros((6, 4, 4))), r"dataset '/boxes' has shape \[6, 4, 4\]"),
    "few widths": (write_hdf5_padded, instead("image_w", [1] * 3), r"'/image_w' has shape \[3\], expected 7 rows"),
    "no size": (write_hdf5_padded, without("image_w"), r"row 0 \(image 'img000\.jpg'\): the width and height of image"),
    "no number": (write_hdf5_padded, instead("num_boxes", [0] * 7), r"row 0 \(image 'img000\.jpg'\): num_boxes is 0"),
    "words": (write_hdf5_padded, instead("boxes", ["x"] * 7), "row 0 .* expected numbers"),
    "no ranges": (
        write_hdf5_packed,
        without("pos_boxes"),
        r"packed\.hdf5: features are \[R, D\] .*'pos_boxes'",
    ),
    "past the end": (write_hdf5_packed, instead("pos_boxes", [[0, 99]] * 7), "'pos_boxes' says rows 0 to 99, the file"),
    "empty range": (write_hdf5_packed, instead("pos_boxes", [[3, 3]] * 7), "'pos_boxes' says rows 3 to 3"),
    "a group without boxes": (
        write_hdf5_groups,
        lambda file: file["img003"].__delitem__("bbox"),
        r"groups\.hdf5, group 'img003': there is no array 'boxes'",
    ),
    "something else": (write_hdf5_groups, lambda file: file.clear(), "neither a dataset 'features' nor a group"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named(name: str, records: list[ImageRecord], tmp_path: Path) -> None:
    write, change, message = WRONG[name]
    path = write(tmp_path, records)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(UserError, match=message):
        list(read_hdf5(path, ImageSizes()))


def test_a_cut_file_is_named(records: list[ImageRecord], tmp_path: Path) -> None:
    path = write_hdf5_padded(tmp_path, records)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"padded\.h5 cannot be read as HDF5 .*truncated"):
        list(read_hdf5(path, ImageSizes()))


def test_ids_may_be_numbers_and_sizes_come_from_elsewhere(records: list[ImageRecord], tmp_path: Path) -> None:
    path = write_hdf5_packed(tmp_path, records)
    with h5py.File(path, "a") as file:
        instead("image_ids", list(range(7)))(file)
        del file["image_w"], file["image_h"]
    sizes = ImageSizes((f"COCO_val2014_{number:012d}", (100, 50 + number)) for number in range(7))
    read = list(read_hdf5(path, sizes))
    assert [(record.image_id, record.height) for record in read] == [(str(number), 50 + number) for number in range(7)]


def test_without_h5py_the_extra_is_named(
    records: list[ImageRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hdf5_padded(tmp_path, records)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'adaptive-ft\[hdf5\]'"):
        list(read_hdf5(path, ImageSizes()))
