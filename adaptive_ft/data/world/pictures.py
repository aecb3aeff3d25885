"""Paints a scene: the two domains' palettes, background textures and noise.

Both domains name the same six colours; the target domain shows them in other shades on another ground, which
is the shift in looks that fine-tuning has to bridge.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from adaptive_ft.data.world.attributes import IMAGE_SIZE, Scene, WorldObject

Rgb = tuple[int, int, int]

FINE = 3
"""Objects are painted at three times the size and shrunk, for smooth edges."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a domain looks: shade of every colour name, ground, and the spread of its texture and noise."""

    palette: dict[str, Rgb]
    ground: Rgb
    texture_cells: tuple[int, int]
    texture_spread: float
    shade_spread: float
    noise: float


LOOKS = {
    "source": Look(
        palette={
            "red": (214, 40, 40),
            "green": (46, 160, 67),
            "blue": (38, 84, 214),
            "yellow": (242, 214, 36),
            "purple": (138, 58, 185),
            "orange": (244, 132, 28),
        },
        ground=(188, 190, 186),
        texture_cells=(6, 6),
        texture_spread=12.0,
        shade_spread=10.0,
        noise=7.0,
    ),
    "target": Look(
        palette={
            "red": (186, 34, 72),
            "green": (92, 176, 84),
            "blue": (58, 128, 214),
            "yellow": (226, 222, 96),
            "purple": (168, 92, 206),
            "orange": (226, 132, 74),
        },
        ground=(96, 88, 84),
        texture_cells=(2, 14),
        texture_spread=16.0,
        shade_spread=14.0,
        noise=11.0,
    ),
}
"""Source: light, blotchy ground, pure shades. Target: dark, striped, noisier ground, other, paler shades."""


def look_between(one: Look, other: Look, share: float) -> Look:
    """The look that lies `share` of the way from `one`, 0, to `other`, 1."""

    def mixed(start: Sequence[float], end: Sequence[float]) -> list[float]:
        return [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]

    def whole(start: Sequence[float], end: Sequence[float]) -> list[int]:
        return [round(value) for value in mixed(start, end)]

    rows, columns = whole(one.texture_cells, other.texture_cells)
    texture_spread, shade_spread, noise = mixed(
        (one.texture_spread, one.shade_spread, one.noise), (other.texture_spread, other.shade_spread, other.noise)
    )
    return Look(
        palette={color: _rgb(whole(shade, other.palette[color])) for color, shade in one.palette.items()},
        ground=_rgb(whole(one.ground, other.ground)),
        texture_cells=(rows, columns),
        texture_spread=texture_spread,
        shade_spread=shade_spread,
        noise=noise,
    )


def paint(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Paint the scene as an RGB picture of IMAGE_SIZE x IMAGE_SIZE pixels; `rng` gives noise and shades."""
    return paint_things(scene.objects, LOOKS[scene.domain], IMAGE_SIZE, rng)


def paint_things(things: Sequence[WorldObject], look: Look, side: int, rng: np.random.Generator) -> Image.Image:
    """Paint things with a look on a ground of `side` x `side` pixels."""
    canvas = _ground(look, rng).resize((side * FINE, side * FINE), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for thing in things:
        shade = np.clip(np.array(look.palette[thing.color]) + rng.normal(0, look.shade_spread, 3), 0, 255)
        points = [(FINE * x, FINE * y) for x, y in outline(thing)]
        pen.polygon(points, fill=_rgb(shade))
    clean = np.asarray(canvas.reduce(FINE), dtype=np.float32)
    noisy = clean + look.noise * rng.standard_normal(clean.shape, dtype=np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def outline(thing: WorldObject) -> list[tuple[float, float]]:
    """Corners of the object's polygon in pixels, turned and placed; a circle has 32 corners."""
    angle = np.deg2rad(thing.turn)
    turned = _UNIT_OUTLINES[thing.shape] @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [(thing.x + thing.radius * float(x), thing.y + thing.radius * float(y)) for x, y in turned]


def encode_png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes; lightly packed, since noise hardly shrinks."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _rgb(shade: "Sequence[float] | np.ndarray") -> Rgb:
    return int(shade[0]), int(shade[1]), int(shade[2])


def _ground(look: Look, rng: np.random.Generator) -> Image.Image:
    """A small picture of the ground's light and dark places, to be stretched over the whole."""
    rows, columns = look.texture_cells
    light = rng.normal(0, look.texture_spread, size=(rows, columns, 1))
    cells = np.clip(np.array(look.ground) + light, 0, 255)
    return Image.fromarray(cells.astype(np.uint8))


def _ring(corners: int, start: float, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Points at equal angles from `start` degrees, at the given distances in turn, [corners, 2]."""
    angles = np.deg2rad(start + 360.0 * np.arange(corners) / corners)
    distances = np.resize(radii, corners)
    return np.stack([distances * np.cos(angles), distances * np.sin(angles)], axis=1)


_ARM, _TIP = 0.33, 0.94
_UNIT_OUTLINES = {
    "circle": _ring(32, 0.0, (0.92,)),
    "square": _ring(4, 45.0),
    "triangle": _ring(3, -90.0),
    "star": _ring(10, -90.0, (1.0, 0.42)),
    "cross": np.array(
        [
            (_ARM, -_TIP), (_ARM, -_ARM), (_TIP, -_ARM), (_TIP, _ARM), (_ARM, _ARM), (_ARM, _TIP),
            (-_ARM, _TIP), (-_ARM, _ARM), (-_TIP, _ARM), (-_TIP, -_ARM), (-_ARM, -_ARM), (-_ARM, -_TIP),
        ]
    ),
}  # fmt: skip
