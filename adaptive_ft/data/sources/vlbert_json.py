"""VL-BERT's region features: one JSON file an image, `<image_id>.json`, in a folder or a zip.

Keys: num_boxes, boxes (base64 of float32 N,4 xyxy pixels), features (base64 of float32 N,D), and in some exports
image_w and image_h. A feature of the whole picture (image_box_feature) is not kept: VL-BERT takes the mean of the
regions where a file has none, and so does every image here. Source: jackroos/VL-BERT, vqa/data/datasets/vqa.py.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.base64_numbers import decode_regions
from adaptive_ft.data.sources.fields import whole_number
from adaptive_ft.data.sources.image_names import image_name
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.region_arrays import HEIGHT, WIDTH, region_record
from adaptive_ft.data.sources.source_files import SourceFile, read_whole
from adaptive_ft.data.sources.unread import Place
from adaptive_ft.errors import UserError


class VlbertJson:
    """A file of one image."""

    def __init__(self, file: SourceFile, sizes: ImageSizes) -> None:
        self._file, self._sizes = file, sizes

    def images(self) -> Iterator[tuple[str, Place, str]]:
        """The one image, called as the file is."""
        yield image_name(PurePosixPath(self._file.name).stem), None, str(self._file)

    def read(self, place: Place, origin: str) -> ImageRecord:
        """The image; UserError naming the file for damage or missing numbers."""
        content = read_whole(self._file)
        try:
            arrays = _arrays(json.loads(content))
        except KeyError as error:
            raise UserError(f"{origin}: key {error} is missing; it is not one of VL-BERT's feature files") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{origin}: {error}") from None
        return region_record(image_name(PurePosixPath(self._file.name).stem), arrays, self._sizes, origin)

    def close(self) -> None:
        """Nothing stays open."""


def _arrays(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("expected an object with num_boxes, boxes and features")
    texts = content["boxes"], content["features"]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("boxes and features must be base64 texts")
    # Some encoders break base64 into lines.
    boxes, features = (text.replace("\n", "") for text in texts)
    boxes_N4, features_ND = decode_regions(whole_number(content, "num_boxes"), boxes, features)
    sides = {name: content[name] for name in (*WIDTH, *HEIGHT) if name in content}
    return {"boxes": boxes_N4, "features": features_ND, **sides}
