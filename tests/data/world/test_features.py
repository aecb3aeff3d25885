"""The extractor: it sees pixels and boxes only, and what it sees is enough to tell colours and shapes apart."""

import inspect
from dataclasses import replace

import numpy as np
from PIL import Image

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.world import features
from adaptive_ft.data.world.attributes import COLORS, SHAPES, Scene
from adaptive_ft.data.world.features import FEATURE_DIM, extract_features
from adaptive_ft.data.world.pictures import paint
from adaptive_ft.data.world.regions import find_boxes
from adaptive_ft.data.world.scenes import draw_scene

Made = dict[str, list[tuple[Scene, ImageRecord]]]
NUM_BOXES = 10


def test_the_extractor_is_given_pixels_and_boxes_only() -> None:
    assert list(inspect.signature(extract_features).parameters) == ["picture", "boxes"]
    assert "from adaptive_ft" not in inspect.getsource(features)


def test_labels_do_not_reach_the_features() -> None:
    """The same pixels give the same features whatever the scene's objects are called."""
    rng = np.random.default_rng(0)
    scene = draw_scene("source", 0.5, rng)
    picture, boxes = paint(scene, rng), find_boxes(scene, NUM_BOXES, rng)
    before = extract_features(picture, boxes)
    renamed = Scene(scene.domain, tuple(replace(thing, color="red", shape="star") for thing in scene.objects))
    copy = Image.frombytes("RGB", picture.size, picture.tobytes())
    assert renamed != scene
    assert np.array_equal(before, extract_features(copy, boxes))
    repainted = paint(renamed, np.random.default_rng(0))
    assert not np.allclose(before, extract_features(repainted, boxes), atol=0.05)


def test_each_box_is_described_by_itself() -> None:
    rng = np.random.default_rng(1)
    scene = draw_scene("target", 0.5, rng)
    picture, boxes = paint(scene, rng), find_boxes(scene, NUM_BOXES, rng)
    order = rng.permutation(NUM_BOXES)
    together = extract_features(picture, boxes)
    assert together.shape == (NUM_BOXES, FEATURE_DIM)
    assert together.dtype == np.float32
    assert np.array_equal(extract_features(picture, boxes[order]), together[order])
    assert np.allclose(extract_features(picture, boxes[:1]), together[:1], atol=1e-6)


def test_a_flat_picture_gives_finite_features() -> None:
    flat = Image.new("RGB", (112, 112), (120, 120, 120))
    described = extract_features(flat, np.array([[0, 0, 112, 112], [3.5, 4.5, 20, 21]], dtype=np.float32))
    assert np.isfinite(described).all()
    assert np.abs(described).max() <= 4.0


def test_colours_and_shapes_can_be_read_from_the_features(made: Made) -> None:
    """A linear read-out fitted on half of the source objects names nearly all of the other half."""
    described, colors, shapes = [], [], []
    for scene, record in made["source/train"]:
        middles = (record.boxes[:, :2] + record.boxes[:, 2:]) / 2
        for thing in scene.objects:
            nearest = np.hypot(*(middles - (thing.x, thing.y)).T).argmin()
            described.append(record.features[nearest])
            colors.append(COLORS.index(thing.color))
            shapes.append(SHAPES.index(thing.shape))
    assert _read_out(np.array(described), np.array(colors)) > 0.97
    assert _read_out(np.array(described), np.array(shapes)) > 0.93


def _read_out(inputs: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of a ridge regression to one-hot labels on the first half."""
    half = len(inputs) // 2
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    wanted = np.eye(labels.max() + 1)[labels[:half]]
    gram = inputs[:half].T @ inputs[:half] + 0.3 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs[:half].T @ wanted)
    return float(((inputs[half:] @ weights).argmax(axis=1) == labels[half:]).mean())
