"""Boxes: inside the picture, one around every object, the others on the ground."""

import numpy as np

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.world.attributes import IMAGE_SIZE, Scene, WorldObject
from adaptive_ft.data.world.pictures import outline
from adaptive_ft.data.world.regions import MARGIN, SHAKE, find_boxes

Made = dict[str, list[tuple[Scene, ImageRecord]]]


def test_boxes_lie_inside_the_picture(made: Made) -> None:
    for _, record in made["source/train"] + made["target/train"]:
        assert record.boxes.shape == (10, 4)
        assert record.boxes.dtype == np.float32
        assert record.boxes.min() >= 0
        assert record.boxes.max() <= IMAGE_SIZE
        assert (record.boxes[:, 2:] - record.boxes[:, :2] > 5).all()


def test_every_object_has_one_loose_box(made: Made) -> None:
    for scene, record in made["target/val"]:
        for thing in scene.objects:
            points = np.array(outline(thing))
            tight = np.concatenate([points.min(axis=0), points.max(axis=0)])
            wanted = np.clip(tight + np.array([-MARGIN, -MARGIN, MARGIN, MARGIN]), 0, IMAGE_SIZE)
            errors = np.abs(record.boxes - wanted).max(axis=1)
            assert (errors <= SHAKE + 1e-4).sum() == 1


def test_the_order_of_boxes_tells_nothing(made: Made) -> None:
    """The first box is an object's about as often as the share of objects among the boxes."""
    first, share = [], []
    for scene, record in made["source/train"] + made["target/train"] + made["target/val"]:
        middle = (record.boxes[0, :2] + record.boxes[0, 2:]) / 2
        first.append(any(np.hypot(*(middle - (thing.x, thing.y))) < 4 for thing in scene.objects))
        share.append(len(scene.objects) / len(record.boxes))
    assert abs(np.mean(first) - np.mean(share)) < 0.1


def test_more_regions_can_be_asked_for() -> None:
    scene = Scene("source", (WorldObject("star", "red", "large", 40.0, 40.0, 0.0),))
    boxes = find_boxes(scene, 36, np.random.default_rng(0))
    assert boxes.shape == (36, 4)
    assert len(np.unique(boxes, axis=0)) == 36
