"""numpy's files: nothing pickled is loaded, and a fault names file and array."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptive_ft.data.records import ImageRecord, validate_record
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError
from tests.data.sources.feature_files import arrays, told_of_damage
from tests.data.sources.reading import read_features

NO_SIZES = ImageSizes()
FLOATS, BOXES = np.ones((3, 5), dtype=np.float32), np.array([[0, 0, 9, 9]] * 3, dtype=np.float32)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path) -> None:
    hit = tmp_path / "hit"
    attack = np.array([Attack(hit)], dtype=object)
    np.savez(tmp_path / "a.npz", features=attack, boxes=BOXES)
    with pytest.raises(UserError, match=r"a\.npz, array 'features', is pickled Python, which can run any code"):
        list(read_features([tmp_path / "a.npz"], NO_SIZES))
    np.save(tmp_path / "b.npy", attack)
    np.save(tmp_path / "b_boxes.npy", BOXES)
    with pytest.raises(UserError, match=r"b\.npy is pickled Python"):
        list(read_features([tmp_path / "b.npy"], NO_SIZES))
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Attack(hit)))
    with pytest.raises(UserError, match=r"c\.npz is not a readable \.npz"):
        list(read_features([tmp_path / "c.npz"], NO_SIZES))
    assert not hit.exists()
    pickle.loads((tmp_path / "c.npz").read_bytes())
    assert hit.exists()  # the attack is a real one


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no boxes": ({"bbox": None}, r"there is no array 'boxes' \(or image_bb, .*\); found: x, num_bbox"),
    "no features": ({"x": None}, "there is no array 'features'"),
    "flat boxes": ({"bbox": np.zeros(12)}, r"boxes must be \[N, 4\], they are \[12\]"),
    "other regions": ({"x": np.ones((4, 5), dtype=np.float32)}, r"features must be \[3, D\] as there are 3 boxes"),
    "one row": ({"x": np.ones(3, dtype=np.float32)}, r"features must be \[3, D\] as there are 3 boxes, they are \[3\]"),
    "words": ({"x": np.full((3, 5), "x")}, "'x' holds <U1, expected numbers"),
    "double": ({"x": np.ones((3, 5))}, "features are float64; store them as float32"),
    "too many": ({"num_bbox": 4}, "num_bbox is 4, expected 1 to the 3 regions stored"),
    "none": ({"num_bbox": 0}, "num_bbox is 0"),
    "half a pixel": ({"image_w": 10.5}, "'image_w' is not one whole number"),
    "no size": ({"image_w": None}, "the width and height of image 'a' are neither here"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_are_named(name: str, make_image: Callable[..., ImageRecord], tmp_path: Path) -> None:
    changes, message = WRONG[name]
    content = {key: value for key, value in {**arrays(make_image(1)), **changes}.items() if value is not None}
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(UserError, match=rf"a\.npz: {message}"):
        list(read_features([tmp_path / "a.npz"], NO_SIZES))


def test_cut_files_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=FLOATS, boxes=BOXES, image_w=9, image_h=9)
    whole = (tmp_path / "a.npz").read_bytes()
    for content, message in (
        (whole[:-30], r"a\.npz is not a readable \.npz"),
        (
            whole.replace(FLOATS.tobytes(), b"\x01" * FLOATS.nbytes),
            r"a\.npz, array 'features', .* \(Bad CRC",
        ),
        (b"", r"a\.npz is not a readable \.npz"),
    ):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UserError, match=message):
            list(read_features([tmp_path / "a.npz"], NO_SIZES))
    np.save(tmp_path / "b.npy", FLOATS)
    np.save(tmp_path / "b_boxes.npy", BOXES)
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-4])
    with pytest.raises(UserError, match=r"b\.npy cannot be read"):
        list(read_features([tmp_path / "b.npy"], NO_SIZES))


def test_damage_anywhere_is_named(tmp_path: Path) -> None:
    """A number may have become another one; nothing else passes."""
    np.savez(tmp_path / "a.npz", features=FLOATS, boxes=BOXES, image_w=9, image_h=9)
    np.save(tmp_path / "b.npy", FLOATS)
    np.save(tmp_path / "b_boxes.npy", BOXES)
    sizes = ImageSizes([("b", (9, 9))])
    for name in ("a.npz", "b.npy"):
        messages = told_of_damage(tmp_path / name, lambda path: list(read_features([path], sizes)), step=1)
        assert len(messages) > 100
        assert all(name in message for message in messages)


def test_an_array_alone_needs_its_boxes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FLOATS)
    with pytest.raises(UserError, match=r"a\.npy holds no boxes, and 'a_boxes\.npy' \[N, 4\] is not beside it"):
        list(read_features([tmp_path / "a.npy"], NO_SIZES))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a\.npz is no \.npz but a single array"):
        list(read_features([tmp_path / "a.npz"], NO_SIZES))


def test_big_endian_and_whole_number_boxes_become_ours(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=FLOATS.astype(">f4"), boxes=BOXES.astype(">i8"), image_w=9, image_h=9)
    (record,) = read_features([tmp_path / "a.npz"], NO_SIZES)
    assert (record.features.dtype, record.boxes.dtype) == (np.dtype("<f4"), np.dtype("<f4"))
    np.testing.assert_array_equal(record.boxes, BOXES)


def test_real_arrays_of_twelve_images(shared_data: Path, tmp_path: Path) -> None:
    """The fixture measures boxes in resized pictures and calls them so: they are read under a name and with a size."""
    real = np.load(shared_data / "allennlp_vqa_fixture/features_var_x1024.npz")
    with pytest.raises(UserError, match=r"there is no array 'boxes'.*found: features, boxes_xyxy_resized"):
        list(read_features([shared_data / "allennlp_vqa_fixture/features_var_x1024.npz"], NO_SIZES))
    np.savez(tmp_path / "all.npz", **{name.replace("boxes_xyxy_resized", "boxes"): real[name] for name in real.files})
    images = {name.partition("/")[0] for name in real.files}
    corners = {image: real[f"{image}/boxes_xyxy_resized"].max(0) for image in images}
    sizes = ImageSizes((image.removesuffix(".jpg"), (int(c[2]) + 1, int(c[3]) + 1)) for image, c in corners.items())
    records = list(read_features([tmp_path / "all.npz"], sizes))
    assert {f"{record.image_id}.jpg" for record in records} == images
    for record in records:
        np.testing.assert_array_equal(record.features, real[f"{record.image_id}.jpg/features"])
        with pytest.raises(UserError, match="no question is asked"):  # the last of the checks: all others passed
            validate_record(record)


def test_real_arrays_of_one_image(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "allennlp_vqa_fixture"
    real = np.load(folder / "features_36x2048_COCO_train2014_000000458752.npz")
    width, height = Image.open(folder / "images/COCO_train2014_000000458752.jpg").size
    scale = 800 / min(width, height)
    boxes = real["boxes_xyxy_resized"] / scale
    path = tmp_path / "COCO_train2014_000000458752.npz"
    np.savez(path, features=real["features"], boxes=boxes, image_w=width, image_h=height)
    (record,) = read_features([path], NO_SIZES)
    assert (record.image_id, record.features.shape) == ("COCO_train2014_000000458752", (36, 2048))
    with pytest.raises(UserError, match="no question is asked"):
        validate_record(record)
