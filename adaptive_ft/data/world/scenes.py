"""Draws the contents of a scene: which objects, where, with hardly any overlap."""

import numpy as np

from adaptive_ft.data.world.attributes import (
    ALL_PAIRS,
    IMAGE_SIZE,
    MAX_OBJECTS,
    MIN_OBJECTS,
    NEW_PAIRS,
    SIZES,
    SOURCE_PAIRS,
    Scene,
    WorldObject,
)

MAX_TURN = 12.0
"""Objects are turned by up to this many degrees; more would make a square look like another shape."""

GAP = 1.0
"""Free pixels kept between the circles around two objects."""

TRIES = 60


def draw_scene(domain: str, new_pair_share: float, rng: np.random.Generator) -> Scene:
    """Draw MIN_OBJECTS to MAX_OBJECTS objects; in the target domain a share of them has a pair new to it.

    An object that finds no free place in TRIES draws is left out unless the scene has too few.
    """
    wanted = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    placed: list[WorldObject] = []
    while len(placed) < wanted:
        color, shape = draw_pair(domain, new_pair_share, rng)
        found = _place(shape, color, str(rng.choice(SIZES)), placed, rng)
        if found is not None:
            placed.append(found)
        elif len(placed) >= MIN_OBJECTS:
            break
    return Scene(domain=domain, objects=tuple(placed))


def draw_pair(domain: str, new_pair_share: float, rng: np.random.Generator) -> tuple[str, str]:
    """A (colour, shape) pair that the domain may show."""
    if domain == "source":
        return SOURCE_PAIRS[int(rng.integers(len(SOURCE_PAIRS)))]
    pairs = NEW_PAIRS if rng.random() < new_pair_share else ALL_PAIRS
    return pairs[int(rng.integers(len(pairs)))]


def _place(
    shape: str, color: str, size: str, placed: list[WorldObject], rng: np.random.Generator
) -> WorldObject | None:
    """The object at a place clear of the others and of the rim, or None when none was found."""
    turn = float(rng.uniform(-MAX_TURN, MAX_TURN))
    thing = WorldObject(shape, color, size, 0.0, 0.0, turn)
    low = thing.radius + 3
    for _ in range(TRIES):
        x, y = (float(value) for value in rng.uniform(low, IMAGE_SIZE - low, size=2))
        if all(np.hypot(x - other.x, y - other.y) >= thing.radius + other.radius + GAP for other in placed):
            return WorldObject(shape, color, size, x, y, turn)
    return None
