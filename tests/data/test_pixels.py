"""Pictures in every usual writing become the same upright RGB pixels."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptive_ft.data.pixels import UNREADABLE, Framing, decode_rgb, framed

ORANGE = (250, 130, 20)


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def halves() -> Image.Image:
    """Left half orange, right half blue, 40 x 20."""
    picture = Image.new("RGB", (40, 20), ORANGE)
    picture.paste((0, 0, 255), (20, 0, 40, 20))
    return picture


def transparent_red() -> Image.Image:
    return Image.new("RGBA", (8, 8), (255, 0, 0, 0))


GREY16 = Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16))
PALETTE = Image.new("RGB", (8, 8), ORANGE).quantize(4)
CASES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "rgb": (encoded(Image.new("RGB", (8, 8), ORANGE)), ORANGE),
    "grey": (encoded(Image.new("L", (8, 8), 77)), (77, 77, 77)),
    "grey jpeg": (encoded(Image.new("L", (8, 8), 77), "JPEG"), (77, 77, 77)),
    "16-bit grey": (encoded(GREY16), (128, 128, 128)),
    "black and white": (encoded(Image.new("1", (8, 8), 1)), (255, 255, 255)),
    "palette": (encoded(PALETTE), ORANGE),
    "transparent": (encoded(transparent_red()), (255, 255, 255)),
    "half transparent grey": (encoded(Image.new("LA", (8, 8), (0, 128))), (127, 127, 127)),
    "transparent palette": (encoded(PALETTE, transparency=0), (255, 255, 255)),
    "cmyk jpeg": (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_writing_becomes_rgb(name: str) -> None:
    content, colour = CASES[name]
    picture = decode_rgb(content)
    assert picture.mode == "RGB"
    np.testing.assert_allclose(np.asarray(picture).reshape(-1, 3), np.tile(colour, (64, 1)), atol=2)


def test_a_picture_taken_sideways_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture = decode_rgb(encoded(halves(), "PNG", exif=exif))
    assert picture.size == (20, 40)
    assert picture.getpixel((10, 5)) == ORANGE
    assert picture.getpixel((10, 35)) == (0, 0, 255)


def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_is_asked() -> None:
    content = encoded(halves().resize((800, 400)), "JPEG")
    assert decode_rgb(content).size == (800, 400)
    assert decode_rgb(content, least=64).size == (200, 100)


def test_a_frame_shows_the_whole_picture_stretched() -> None:
    pixels_HW3 = framed(halves(), Framing(10))
    assert pixels_HW3.shape == (10, 10, 3)
    assert pixels_HW3.dtype == np.uint8
    assert tuple(pixels_HW3[5, 1]) == ORANGE
    assert tuple(pixels_HW3[5, 8]) == (0, 0, 255)


def test_a_frame_that_keeps_the_shape_shows_the_middle() -> None:
    wide = Image.new("RGB", (61, 20), ORANGE)
    wide.paste((0, 0, 255), (20, 0, 41, 20))
    pixels_HW3 = framed(wide, Framing(9, resized_to=10, keeps_shape=True, resample=Image.Resampling.NEAREST))
    assert pixels_HW3.shape == (9, 9, 3)
    assert (pixels_HW3 == (0, 0, 255)).all()


def test_a_frame_of_another_side_shows_as_much() -> None:
    framing = Framing(224, 256, keeps_shape=True)
    assert framing.of_side(224) == framing
    assert framing.of_side(112) == Framing(112, 128, keeps_shape=True)
    assert Framing(224).of_side(40) == Framing(40)
    with pytest.raises(ValueError, match="a frame of 12 pixels cannot be cut from 10"):
        Framing(12, 10)


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(halves())[:60], encoded(halves(), "JPEG")[:300]])
def test_what_is_no_whole_picture_cannot_be_decoded(content: bytes) -> None:
    with pytest.raises(UNREADABLE):
        decode_rgb(content)
