"""Small picture files for the tests of labelled pictures."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise_picture(seed: int) -> Image.Image:
    """30 x 20 pixels of coloured noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def write_picture(path: Path, seed: int = 0) -> None:
    """Write a noise picture in the format its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_picture(seed).save(path)
