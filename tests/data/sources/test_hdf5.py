"""HDF5 features: what is missing, of the wrong length or damaged is named by file, dataset and image."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError
from tests.data.sources.feature_files import told_of_damage, write_hdf5_groups, write_hdf5_packed, write_hdf5_padded
from tests.data.sources.reading import read_features

Change = Callable[[Any], None]


def without(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def instead(name: str, value: Any) -> Change:
    def change(file: Any) -> None:
        del file[name]
        file[name] = value

    return change


def a_group(name: str) -> Change:
    def change(file: Any) -> None:
        del file[name]
        file.create_group(name)

    return change


NOTHING = h5py.Empty("f4")
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
    "words": (write_hdf5_padded, instead("boxes", np.full((7, 4, 4), b"x")), "row 0 .* expected numbers"),
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
    "a group for features": (write_hdf5_padded, a_group("features"), r"'features' is a group, expected a dataset"),
    "a group for boxes": (write_hdf5_packed, a_group("image_bb"), r"'image_bb' is a group, expected a dataset"),
    "a group for widths": (write_hdf5_padded, a_group("image_w"), r"'image_w' is a group, expected a dataset"),
    "one feature": (write_hdf5_padded, instead("features", 5.0), r"'features' has shape \[\], expected 2 or 3 axes"),
    "flat features": (write_hdf5_packed, instead("image_features", np.zeros(9)), r"shape \[9\], expected 2 or 3 axes"),
    "no features": (write_hdf5_padded, instead("features", NOTHING), "'features' is empty, expected a dataset"),
    "no numbers": (write_hdf5_padded, instead("num_boxes", NOTHING), "'num_boxes' is empty, expected a dataset"),
    "one name": (write_hdf5_padded, instead("image_ids", "a"), r"'image_ids' has shape \[\], expected 1 or 2 axes"),
    "two names each": (write_hdf5_padded, instead("image_ids", [[1, 2]] * 7), r"shape \[7, 2\], expected one name for"),
    "shares as names": (
        write_hdf5_padded,
        instead("image_ids", [0.5] * 7),
        "'image_ids' holds float64, expected",
    ),
    "flat ranges": (
        write_hdf5_packed,
        instead("pos_boxes", range(7)),
        r"int64 \[7\], expected .* \[7, 2\]",
    ),
    "ranges of one": (write_hdf5_packed, instead("pos_boxes", [[1]] * 7), r"int64 \[7, 1\], expected whole numbers"),
    "ranges of words": (write_hdf5_packed, instead("pos_boxes", [["a", "b"]] * 7), r"expected whole numbers \[7, 2\]"),
    "ranges of NaN": (write_hdf5_packed, instead("pos_boxes", [[np.nan] * 2] * 7), r"float64 \[7, 2\], expected whole"),
    "endless": (write_hdf5_padded, instead("image_w", [np.inf] * 7), "row 0 .*: 'image_w' is not one whole number"),
    "a group with nothing in x": (
        write_hdf5_groups,
        lambda file: instead("x", NOTHING)(file["img003"]),
        r"group 'img003': 'x' holds no numbers",
    ),
    "a group with a group of widths": (
        write_hdf5_groups,
        lambda file: a_group("image_w")(file["img003"]),
        r"group 'img003': 'image_w' is not one whole number",
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
        list(read_features([path], ImageSizes()))


def test_a_cut_file_is_named(records: list[ImageRecord], tmp_path: Path) -> None:
    path = write_hdf5_padded(tmp_path, records)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"padded\.h5 cannot be read as HDF5 .*truncated"):
        list(read_features([path], ImageSizes()))


def test_ids_may_be_numbers_and_sizes_come_from_elsewhere(records: list[ImageRecord], tmp_path: Path) -> None:
    path = write_hdf5_packed(tmp_path, records)
    with h5py.File(path, "a") as file:
        instead("image_ids", list(range(7)))(file)
        del file["image_w"], file["image_h"]
    sizes = ImageSizes((f"COCO_val2014_{number:012d}", (100, 50 + number)) for number in range(7))
    read = list(read_features([path], sizes))
    assert [(record.image_id, record.height) for record in read] == [(str(number), 50 + number) for number in range(7)]


def test_ids_in_a_column_are_names(records: list[ImageRecord], tmp_path: Path) -> None:
    path = write_hdf5_padded(tmp_path, records)
    with h5py.File(path, "a") as file:
        instead("image_ids", [[number] for number in range(7)])(file)
    assert [record.image_id for record in read_features([path], ImageSizes())] == [str(number) for number in range(7)]


def test_damage_anywhere_is_named(records: list[ImageRecord], tmp_path: Path) -> None:
    """A number may have become another one; nothing else passes."""
    path = write_hdf5_packed(tmp_path, records[:2])
    messages = told_of_damage(path, lambda path: list(read_features([path], ImageSizes())), step=50)
    assert len(messages) > 20
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize("name", ["image_ids", "num_boxes", "features"])
def test_a_dataset_larger_than_its_file_is_refused(name: str, records: list[ImageRecord], tmp_path: Path) -> None:
    """Of a damaged number of rows memory would be asked for before anything is read."""
    path = write_hdf5_padded(tmp_path, records)
    with h5py.File(path, "a") as file:
        shape = (10**12, *file[name].shape[1:])
        dtype = file[name].dtype
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]))
    with pytest.raises(
        UserError, match=rf"padded\.h5: '{name}' has shape \[1000000000000.*\], more than \d+ bytes can"
    ):
        list(read_features([path], ImageSizes()))


def test_a_group_whose_name_is_no_text_is_named(records: list[ImageRecord], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group(b"\xff\xfe")
    with pytest.raises(UserError, match=r"a\.h5: the group .* has a name that is not UTF-8; rename it"):
        list(read_features([tmp_path / "a.h5"], ImageSizes()))


def test_without_h5py_the_extra_is_named(
    records: list[ImageRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hdf5_padded(tmp_path, records)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'adaptive-ft\[hdf5\]'"):
        list(read_features([path], ImageSizes()))
