"""Encoded pictures become pixels: every writing of a photograph as plain upright RGB, of one size.

Shape suffixes: H rows, W columns, 3 = red green blue.
"""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

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


def resized(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of an RGB picture stretched to `size` x `size`, as ViT's image processor does it."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


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
