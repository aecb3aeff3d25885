"""The arrays of one image under the names that published exports give them become an ImageRecord.

Shape suffixes: N regions, D feature size, 4 = x1 y1 x2 y2.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError

FEATURES = ("features", "image_features", "x", "feat")
BOXES = ("boxes", "image_bb", "bbox", "bboxes", "bb")
NUM_BOXES = ("num_boxes", "num_bbox", "objects_num")
WIDTH = ("image_w", "image_width", "img_w", "width")
HEIGHT = ("image_h", "image_height", "img_h", "height")


def name_in(arrays: Collection[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that is there."""
    return next((name for name in names if name in arrays), None)


def region_record(image_id: str, arrays: Mapping[str, Any], sizes: ImageSizes, origin: str) -> ImageRecord:
    """The image of features [N,D] (or [D,N], as some exports store `x`) and boxes [N,4] in pixels.

    `arrays` may hold num_boxes, which cuts padding off, and width and height, else `sizes` tells them; only the
    arrays needed are read. Features keep their type, boxes become float32. Raises UserError naming `origin`.
    """
    try:
        boxes_N4 = _numbers(arrays, BOXES)
        if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
            raise ValueError(f"boxes must be [N, 4], they are {list(boxes_N4.shape)}")
        features_ND = _regions_first(_numbers(arrays, FEATURES), len(boxes_N4))
        if features_ND.dtype not in (np.float16, np.float32):
            raise ValueError(f"features are {features_ND.dtype}; store them as float32 or float16")
        kept = _num_boxes(arrays, len(boxes_N4))
        width, height = _size(image_id, arrays, sizes)
    except UserError:
        raise  # names the place already
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from None
    return ImageRecord(
        image_id=image_id,
        width=width,
        height=height,
        boxes=boxes_N4[:kept].astype(np.float32),
        features=features_ND[:kept],
        questions=(),
        origin=origin,
    )


def _numbers(arrays: Mapping[str, Any], names: tuple[str, ...]) -> NDArray[Any]:
    name = name_in(arrays, names)
    if name is None:
        raise ValueError(
            f"there is no array '{names[0]}' (or {', '.join(names[1:])}); found: {', '.join(map(str, arrays))}"
        )
    array = _array(arrays, name)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"'{name}' holds {array.dtype}, expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _array(arrays: Mapping[str, Any], name: str) -> NDArray[Any]:
    try:
        return np.asarray(arrays[name])
    except TypeError:  # HDF5 knows datasets without a shape
        raise ValueError(f"'{name}' holds no numbers") from None


def _regions_first(features: NDArray[Any], num_boxes: int) -> NDArray[Any]:
    if features.ndim == 2 and len(features) == num_boxes:
        return features
    if features.ndim == 2 and features.shape[1] == num_boxes:
        return np.ascontiguousarray(features.T)
    raise ValueError(f"features must be [{num_boxes}, D] as there are {num_boxes} boxes, they are {[*features.shape]}")


def _num_boxes(arrays: Mapping[str, Any], stored: int) -> int:
    name = name_in(arrays, NUM_BOXES)
    number = stored if name is None else _whole_number(arrays, name)
    if not 1 <= number <= stored:
        raise ValueError(f"{name or 'num_boxes'} is {number}, expected 1 to the {stored} regions stored")
    return number


def _size(image_id: str, arrays: Mapping[str, Any], sizes: ImageSizes) -> tuple[int, int]:
    width, height = name_in(arrays, WIDTH), name_in(arrays, HEIGHT)
    if width is not None and height is not None:
        return _whole_number(arrays, width), _whole_number(arrays, height)
    size = sizes.of(image_id)
    if size is None:
        raise ValueError(
            f"the width and height of image '{image_id}' are neither here nor in a file of --image_sizes; name one "
            "that tells them (COCO's instances or captions JSON)"
        )
    return size


def _whole_number(arrays: Mapping[str, Any], name: str) -> int:
    value = _array(arrays, name)
    if value.size != 1 or value.dtype.kind not in "fiu" or not float(value.item()).is_integer():
        raise ValueError(f"'{name}' is not one whole number")
    return int(value.item())
