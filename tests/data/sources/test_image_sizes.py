"""Sizes of images by name and by COCO number, from COCO's annotations or a plain table."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_coco_annotations_and_a_table_together(tmp_path: Path) -> None:
    image = {"id": 25, "file_name": "COCO_val2014_000000000025.jpg", "width": 640, "height": 480}
    coco = write(tmp_path / "instances.json", {"images": [image], "annotations": []})
    table = write(tmp_path / "graphs.json", {"2331963": {"width": 3, "height": 4, "objects": {}}})
    sizes = ImageSizes.read([coco, table])
    for name in ("COCO_val2014_000000000025", "25", "000000000025"):
        assert sizes.of(name) == (640, 480)
    assert sizes.of("2331963") == (3, 4)
    assert sizes.of("26") is None
    assert sizes.of("n25") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "tells no image sizes"),
        ({"images": [{"file_name": "x.jpg", "width": 1}]}, r"image .*x\.jpg.*: no width and height .*height"),
        ({"images": [{"width": 1, "height": 1}]}, "no width and height .*file_name"),
        ({"7": {"width": "wide", "height": 1}}, "image 7: no width and height .*wide"),
        ({"7": {"width": float("inf"), "height": 1}}, "image 7: .*'width' is inf, expected a whole number"),
        ({"7": {"width": 1.5, "height": 1}}, "image 7: .*'width' is 1.5, expected a whole number"),
        ({"7": 8}, "image 7: no width and height"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"sizes\.json.*{message}"):
        ImageSizes.read([write(tmp_path / "sizes.json", content)])
