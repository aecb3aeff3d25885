"""Encoded pictures become pixels: every writing of a photograph as plain upright RGB, in one frame.

Shape suffixes: H rows, W columns, 3 = red green blue.
"""

import io
import struct
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

PICTURE_ENDINGS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg"}
"""The kinds of picture files that are read: how the file begins, and how its name ends."""
WHITE = (255, 255, 255)
UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)
"""What PIL raises for a file that is cut, damaged, or no picture."""

_LIGHT_LEVELS = 257  # a 16-bit grey value in one of 8 bits: 65535 / 255
_WIDE_GREY = ("I", "F")


def decode_rgb(content: bytes, least: int = 0) -> Image.Image:
    """The picture in an encoded file: upright as its EXIF tag says, RGB, what is transparent over white.

    A JPEG of more than twice `least` pixels on both sides may come scaled down by a power of two, still of at least
    `least` pixels, which saves most of its decoding; 0 decodes it whole. Raises one of `UNREADABLE`.
    """
    picture: Image.Image = Image.open(io.BytesIO(content))
    if least:
        picture.draft(None, (least, least))
    return _as_rgb(ImageOps.exif_transpose(picture))


@dataclass(frozen=True, slots=True)
class Framing:
    """How a picture of any shape becomes a square of `side` x `side` pixels: resized, then its middle cut out.

    `resized_to` is the side of the square it is stretched to, or where `keeps_shape` the length of its shorter edge;
    0 stands for `side`, which stretches the whole picture into the frame.
    """

    side: int
    resized_to: int = 0
    keeps_shape: bool = False
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if self.resized_to == 0:
            object.__setattr__(self, "resized_to", self.side)
        if not 0 < self.side <= self.resized_to:
            raise ValueError(f"a frame of {self.side} pixels cannot be cut from {self.resized_to}")

    def of_side(self, side: int) -> "Framing":
        """The same view of a picture in a frame of another side."""
        return replace(self, side=side, resized_to=max(side, round(self.resized_to * side / self.side)))


def framed(picture: Image.Image, framing: Framing) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of an RGB picture, resized and cut as the image processors of transformers do it."""
    edge, short, side = framing.resized_to, min(picture.size), framing.side
    width, height = (int(edge * length / short) if framing.keeps_shape else edge for length in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    whole = picture.resize((width, height), framing.resample)
    return np.asarray(whole.crop((left, top, left + side, top + side)))


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(_WIDE_GREY):
        # PIL cuts 16-bit grey off at 255 instead of scaling it.
        levels_HW = np.asarray(picture, dtype=np.float64) / _LIGHT_LEVELS
        picture = Image.fromarray(levels_HW.round().clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        ground = Image.new("RGBA", above.size, WHITE)
        picture = Image.alpha_composite(ground, above)
    return picture.convert("RGB")
