"""Numbers that a text format carries as base64 of little-endian float32."""

import base64
import binascii

import numpy as np
from numpy.typing import NDArray


def decode_regions(
    num_boxes: int, boxes: str | bytes, features: str | bytes
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes [N,4] and features [N,D] of N = `num_boxes` regions, in row order; ValueError if a length does not fit."""
    if num_boxes < 1:
        raise ValueError(f"num_boxes is {num_boxes}; an image needs at least one region")
    boxes_N4, features_ND = _numbers(boxes, "boxes"), _numbers(features, "features")
    if boxes_N4.size != num_boxes * 4:
        raise ValueError(f"boxes hold {boxes_N4.size} numbers, expected 4 for each of {num_boxes} regions")
    if features_ND.size == 0 or features_ND.size % num_boxes:
        raise ValueError(f"features hold {features_ND.size} numbers, not a multiple of {num_boxes} regions")
    return boxes_N4.reshape(num_boxes, 4), features_ND.reshape(num_boxes, -1)


def _numbers(text: str | bytes, name: str) -> NDArray[np.float32]:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name} are not valid base64 ({error})") from None
    if len(content) % 4:
        raise ValueError(f"{name} hold {len(content)} bytes, not a multiple of 4 (float32)")
    return np.frombuffer(content, dtype="<f4")
