"""VL-BERT's JSON features: names, sizes from elsewhere, and every damage named by file."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError
from tests.data.sources.feature_files import encode, json_content
from tests.data.sources.reading import read_features


@pytest.fixture
def content(make_image: Callable[..., ImageRecord]) -> dict[str, Any]:
    return json_content(make_image(1))


def write(folder: Path, content: Any) -> Path:
    path = folder / "25.json"
    path.write_text(json.dumps(content))
    return path


def test_sizes_may_come_from_coco(content: dict[str, Any], tmp_path: Path) -> None:
    del content["image_w"], content["image_h"]
    path = write(tmp_path, content)
    (record,) = read_features([path], ImageSizes([("COCO_val2014_000000000025", (100, 50))]))
    assert (record.image_id, record.width, record.height, record.origin) == ("25", 100, 50, str(path))
    with pytest.raises(UserError, match=r"25\.json: the width and height of image '25' are neither here nor"):
        list(read_features([path], ImageSizes()))


def test_base64_in_lines_and_the_picture_s_own_feature(content: dict[str, Any], tmp_path: Path) -> None:
    (plain,) = read_features([write(tmp_path, content)], ImageSizes())
    raw = base64.b64decode(content["features"])
    content |= {
        "features": base64.encodebytes(raw).decode(),
        "image_box_feature": encode(np.ones(5, dtype=np.float32)),
    }
    assert "\n" in content["features"]
    (broken,) = read_features([write(tmp_path, content)], ImageSizes())
    np.testing.assert_array_equal(broken.features, plain.features)


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "no boxes": ({"num_boxes": 0}, "num_boxes is 0"),
    "too few boxes": ({"boxes": encode(np.zeros(7, dtype=np.float32))}, "boxes hold 7 numbers, expected 4 for each of"),
    "a list": ({"boxes": [[0, 0, 1, 1]]}, "boxes and features must be base64 texts"),
    "not base64": ({"features": "!!!!"}, "features are not valid base64"),
    "cut": ({"features": base64.b64encode(b"12345").decode()}, "features hold 5 bytes"),
    "ragged": ({"features": encode(np.zeros(7, dtype=np.float32))}, "features hold 7 numbers, not a multiple of 3"),
    "a size in words": ({"image_w": "wide"}, "'image_w' is not one whole number"),
    "an endless size": ({"image_w": float("inf")}, "'image_w' is not one whole number"),
    "no number": ({"num_boxes": None}, "'num_boxes' is None, expected a whole number"),
    "endless": ({"num_boxes": float("inf")}, "'num_boxes' is inf, expected a whole number"),
    "half a region": ({"num_boxes": 2.5}, "'num_boxes' is 2.5, expected a whole number"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    changes, message = DAMAGE[name]
    with pytest.raises(UserError, match=rf"25\.json: {message}"):
        list(read_features([write(tmp_path, {**content, **changes})], ImageSizes()))


@pytest.mark.parametrize(
    ("other", "message"), [([], "expected an object"), ({"boxes": ""}, "key 'features' is missing")]
)
def test_other_json_is_refused(other: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"25\.json: {message}"):
        list(read_features([write(tmp_path, other)], ImageSizes()))
    (tmp_path / "25.json").write_text("{")
    with pytest.raises(UserError, match=r"25\.json: Expecting property name"):
        list(read_features([tmp_path / "25.json"], ImageSizes()))
