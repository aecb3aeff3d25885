"""The closed lists a world is made of: shapes, colours, sizes, and the pairs only the target domain shows.

Coordinates are pixels with the origin at the top left, x to the right and y downwards.
"""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
RADII = {"small": 7.0, "large": 12.0}
"""Distance in pixels from an object's middle to its outermost point."""

SIDES = ("left", "right")
HEIGHTS = ("top", "bottom")
MIN_OBJECTS, MAX_OBJECTS = 3, 8
IMAGE_SIZE = 112

HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("green", "circle"),
        ("blue", "triangle"),
        ("yellow", "square"),
        ("purple", "cross"),
        ("orange", "circle"),
    }
)
"""(colour, shape) pairs of the target domain alone; each colour and each shape still occurs in the source."""

ALL_PAIRS = tuple((color, shape) for color in COLORS for shape in SHAPES)
SOURCE_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)
NEW_PAIRS = tuple(pair for pair in ALL_PAIRS if pair in HELD_OUT_PAIRS)


@dataclass(frozen=True, slots=True)
class WorldObject:
    """One thing in a picture; `x`, `y` is its middle, `turn` the rotation in degrees."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    turn: float

    @property
    def radius(self) -> float:
        """Distance from the middle to the outermost point, in pixels."""
        return RADII[self.size]


@dataclass(frozen=True, slots=True)
class Scene:
    """The truth about one picture; only the question templates read it, never the region features."""

    domain: str
    objects: tuple[WorldObject, ...]
