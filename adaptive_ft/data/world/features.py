"""The fixed extractor: region features from pixels and boxes alone, the embedded world's Faster R-CNN.

It is given a picture and boxes, never a scene, so no label can leak into a feature. Each box is cut out and
resized to GRID x GRID pixels, then described by

- contrast   8 x 8  how far each place's colour is from the median colour of the cut's rim: the object's mask;
- edges   2 x 2 x 8 histogram of brightness gradient directions in each quarter, weighted by strength;
- colour       6    mean and spread of RGB over the places of high contrast;
- hue         12    histogram of hue, weighted by saturation and contrast;
- patch   4 x 4 x 3 the cut itself in RGB;
- place     5 + 5   the box's middle as soft histograms over the picture's width and height;
- extent       2    the box's width and height, in quarters of the picture.

All parts lie in about [0, 1]; nothing is learned or fitted to data. Place and extent repeat what the box
says, as a convolutional network's features do. Arrays: `x_NGGC` has N regions, a G x G grid and C colour
channels.
"""

import numpy as np
from PIL import Image

EXTRACTOR = "adaptive-ft-pixel-histograms-v1"
GRID = 16
EDGE_BINS, HUE_BINS, PLACE_BINS = 8, 12, 5
FEATURE_DIM = 64 + 4 * EDGE_BINS + 6 + HUE_BINS + 48 + 2 * PLACE_BINS + 2


def extract_features(picture: Image.Image, boxes: np.ndarray) -> np.ndarray:
    """Describe each box of an RGB picture.

    `boxes` [N, 4] are (x0, y0, x1, y1) in pixels; the features are [N, FEATURE_DIM] float32.
    """
    cuts = [
        np.asarray(picture.resize((GRID, GRID), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    pixels_NGGC = np.stack(cuts).astype(np.float32) / 255
    contrast_NGG = _contrast(pixels_NGGC)
    parts = (
        _pool(contrast_NGG, 8),
        _edges(pixels_NGGC.mean(axis=3)),
        _colour(pixels_NGGC, contrast_NGG),
        _hues(pixels_NGGC, contrast_NGG),
        _pool(pixels_NGGC, 4),
        _place_and_extent(boxes / np.array(picture.size * 2)),
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


def _contrast(pixels_NGGC: np.ndarray) -> np.ndarray:
    """Distance in RGB to the median of the rim, doubled and cut at 1: 0 on the ground, 1 on an object."""
    rim = np.concatenate(
        [pixels_NGGC[:, 0], pixels_NGGC[:, -1], pixels_NGGC[:, 1:-1, 0], pixels_NGGC[:, 1:-1, -1]], axis=1
    )
    ground = np.median(rim, axis=1)[:, None, None, :]
    distance: np.ndarray = np.sqrt(((pixels_NGGC - ground) ** 2).sum(axis=3))
    return np.minimum(2 * distance, 1)


def _pool(values: np.ndarray, cells: int) -> np.ndarray:
    """Means over a cells x cells grid of [N, G, G] or [N, G, G, C], flattened to [N, cells * cells (* C)]."""
    step = GRID // cells
    blocks = values.reshape(len(values), cells, step, cells, step, -1)
    return blocks.mean(axis=(2, 4)).reshape(len(values), -1)


def _edges(light_NGG: np.ndarray) -> np.ndarray:
    """Direction histograms of the brightness gradient, one per quarter summing to 1, [N, 4 * EDGE_BINS]."""
    down, right = np.gradient(light_NGG, axis=(1, 2))
    strength = np.hypot(down, right)
    direction = np.arctan2(down, right) / (2 * np.pi) + 0.5
    bins = np.minimum((direction * EDGE_BINS).astype(int), EDGE_BINS - 1)
    weighted = np.eye(EDGE_BINS, dtype=np.float32)[bins] * strength[..., None]
    sums = _pool(weighted, 2).reshape(len(light_NGG), 4, EDGE_BINS)
    shares = sums / (sums.sum(axis=2, keepdims=True) + 1e-3)
    return shares.reshape(len(light_NGG), -1)


def _colour(pixels_NGGC: np.ndarray, contrast_NGG: np.ndarray) -> np.ndarray:
    """Mean and spread of RGB, weighted by squared contrast, [N, 6]."""
    weights = contrast_NGG[..., None] ** 2 + 1e-4
    weights = weights / weights.sum(axis=(1, 2), keepdims=True)
    mean = (weights * pixels_NGGC).sum(axis=(1, 2))
    variance = (weights * (pixels_NGGC - mean[:, None, None]) ** 2).sum(axis=(1, 2))
    return np.concatenate([mean, np.sqrt(variance)], axis=1)


def _hues(pixels_NGGC: np.ndarray, contrast_NGG: np.ndarray) -> np.ndarray:
    """Hue histogram weighted by saturation and squared contrast, neighbours sharing softly, [N, HUE_BINS]."""
    red, green, blue = np.moveaxis(pixels_NGGC, 3, 0)
    angle = np.arctan2(np.sqrt(3.0) * (green - blue), 2 * red - green - blue) / (2 * np.pi) % 1
    spread = pixels_NGGC.max(axis=3) - pixels_NGGC.min(axis=3)
    weights = spread * contrast_NGG**2
    gaps = np.abs(angle[..., None] * HUE_BINS - np.arange(HUE_BINS))
    gaps = np.minimum(gaps, HUE_BINS - gaps)
    soft = np.clip(1 - gaps, 0, None) * weights[..., None]
    sums: np.ndarray = soft.sum(axis=(1, 2))
    return sums / (sums.sum(axis=1, keepdims=True) + 1.0)


def _place_and_extent(shares_N4: np.ndarray) -> np.ndarray:
    """Soft histograms of the middle, then width and height in quarters; boxes are shares of the picture."""
    middles = (shares_N4[:, :2] + shares_N4[:, 2:]) / 2
    gaps = np.abs(middles[..., None] * (PLACE_BINS - 1) - np.arange(PLACE_BINS))
    places = np.clip(1 - gaps, 0, None).reshape(len(shares_N4), -1)
    return np.concatenate([places, 4 * (shares_N4[:, 2:] - shares_N4[:, :2])], axis=1)
