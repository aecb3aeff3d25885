"""Scenes: what may appear in which domain, and that objects keep apart."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.world.attributes import (
    COLORS,
    HELD_OUT_PAIRS,
    IMAGE_SIZE,
    MAX_OBJECTS,
    MIN_OBJECTS,
    SHAPES,
    Scene,
)
from adaptive_ft.data.world.scenes import draw_scene

Made = dict[str, list[tuple[Scene, ImageRecord]]]


@pytest.mark.parametrize("domain", ["source", "target"])
def test_objects_are_few_apart_and_inside(domain: str) -> None:
    for seed in range(100):
        scene = draw_scene(domain, 0.5, np.random.default_rng(seed))
        assert MIN_OBJECTS <= len(scene.objects) <= MAX_OBJECTS
        for thing in scene.objects:
            assert thing.radius <= min(thing.x, thing.y)
            assert max(thing.x, thing.y) <= IMAGE_SIZE - thing.radius
        for one, other in combinations(scene.objects, 2):
            assert np.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius


def test_scenes_differ_in_number_and_place() -> None:
    scenes = [draw_scene("source", 0.5, np.random.default_rng(seed)) for seed in range(40)]
    assert {len(scene.objects) for scene in scenes} == set(range(MIN_OBJECTS, MAX_OBJECTS + 1))
    assert all(one.objects[0].x != other.objects[0].x for one, other in pairwise(scenes))


def test_held_out_pairs_belong_to_the_target_alone(made: Made) -> None:
    source = _pairs(made, "source/train") + _pairs(made, "source/val")
    target = _pairs(made, "target/train")
    assert not HELD_OUT_PAIRS & set(source)
    assert set(target) >= HELD_OUT_PAIRS
    assert 0.5 < sum(pair in HELD_OUT_PAIRS for pair in target) / len(target) < 0.7  # half, and some of the rest
    assert {color for color, _ in source} == set(COLORS)
    assert {shape for _, shape in source} == set(SHAPES)


def _pairs(made: Made, split: str) -> list[tuple[str, str]]:
    return [(thing.color, thing.shape) for scene, _ in made[split] for thing in scene.objects]
