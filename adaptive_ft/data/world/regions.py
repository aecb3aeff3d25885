"""Boxes as a detector would give them: one loose, shaky box per object, the rest on the ground."""

import numpy as np

from adaptive_ft.data.world.attributes import IMAGE_SIZE, Scene
from adaptive_ft.data.world.pictures import outline

MARGIN = 3.0
"""Pixels a box is wider than its object on each side, before the shake."""

SHAKE = 1.5
"""Largest error of a box side, in pixels."""

MAX_OVERLAP = 0.25
"""A ground box covers at most this share of the smaller of itself and any object's box ..."""

TRIES = 40
"""... unless so many draws found no such place; then the last draw stands, as detectors err too."""


def find_boxes(scene: Scene, num_regions: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes [num_regions, 4] float32, (x0, y0, x1, y1) in pixels inside the picture, in random order."""
    tight = np.array([_extent(np.array(outline(thing))) for thing in scene.objects])
    loose = tight + np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])
    found = list(loose + rng.uniform(-SHAKE, SHAKE, size=loose.shape))
    while len(found) < num_regions:
        found.append(_ground_box(loose, rng))
    boxes = np.clip(np.stack(found), 0, IMAGE_SIZE)
    return boxes[rng.permutation(num_regions)].astype(np.float32)


def _extent(points: np.ndarray) -> np.ndarray:
    """The tight box (x0, y0, x1, y1) around points [P, 2]."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _ground_box(taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A box on the ground that covers little of the boxes `taken` [O, 4]."""
    for _ in range(TRIES):
        width, height = rng.uniform(14, 30, size=2)
        x, y = rng.uniform(0, IMAGE_SIZE - width), rng.uniform(0, IMAGE_SIZE - height)
        box = np.array([x, y, x + width, y + height])
        if _overlap(box, taken).max() <= MAX_OVERLAP:
            break
    return box


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Shared area over the smaller area, for one box and others [O, 4], as [O]."""
    corners_low = np.maximum(box[:2], others[:, :2])
    corners_high = np.minimum(box[2:], others[:, 2:])
    shared = np.clip(corners_high - corners_low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return shared / np.minimum(areas, (box[2:] - box[:2]).prod())
