"""Changes of VQA examples that keep the answer right, as the original's: mirrored pictures and a common size.

Shape suffixes: B questions, N region boxes, 4 = x1 y1 x2 y2, 2 = width height.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.records import Question

SHORT_SIDE, LONG_SIDE = 600, 1000
OTHER_SIDE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
_SIDE = re.compile(rf"\b({'|'.join(OTHER_SIDE)})\b")


def flip(raw: RawBatch, flipped_B: Tensor) -> RawBatch:
    """Examples with the rows of `flipped_B` (bool) mirrored: x' = w - 1 - x, and left is right.

    The corners x1 and x2 change places; features stay as they are. The words left and right change places in the
    question, in its answers and in their scores.
    """
    last_B1 = raw.sizes_B2[:, :1] - 1
    x1_BN, y1_BN, x2_BN, y2_BN = raw.boxes_BN4.unbind(2)
    mirrored_BN4 = torch.stack([last_B1 - x2_BN, y1_BN, last_B1 - x1_BN, y2_BN], dim=2)
    moved_BN = flipped_B.unsqueeze(1) & raw.box_mask_BN
    boxes_BN4 = torch.where(moved_BN.unsqueeze(2), mirrored_BN4, raw.boxes_BN4)
    rows = zip(raw.questions, flipped_B.tolist(), strict=True)
    questions = [mirrored(question) if flipped else question for question, flipped in rows]
    return replace(raw, boxes_BN4=boxes_BN4, questions=questions)


def mirrored(question: Question) -> Question:
    """The question about the mirrored picture."""
    return replace(
        question,
        text=swap_sides(question.text),
        answers=tuple(map(swap_sides, question.answers)),
        scores={swap_sides(answer): score for answer, score in question.scores.items()},
    )


def swap_sides(text: str) -> str:
    """The text with the words left and right in each other's place."""
    return _SIDE.sub(lambda side: OTHER_SIDE[side.group()], text)


def resize(raw: RawBatch) -> RawBatch:
    """Examples as if every picture had been scaled to a short side of 600, or less where the long one would pass 1000.

    Sides are whole pixels; boxes are scaled by the sides' own ratios. Rows without a picture stay.
    """
    sizes_B2 = torch.tensor([resized(*map(int, size)) for size in raw.sizes_B2.tolist()])
    ratios_B2 = torch.where(raw.sizes_B2 > 0, sizes_B2 / raw.sizes_B2, 1.0)
    return replace(raw, boxes_BN4=raw.boxes_BN4 * ratios_B2.repeat(1, 2).unsqueeze(1), sizes_B2=sizes_B2)


def resized(width: int, height: int) -> tuple[float, float]:
    """Width and height after scaling; (0, 0) stays."""
    short, long = sorted((width, height))
    if short == 0:
        return float(width), float(height)
    target = SHORT_SIDE
    if long / short * target > LONG_SIDE:
        target = round(LONG_SIDE * short / long)
    if short == target:
        return float(width), float(height)
    if width < height:
        return float(target), float(int(target * height / width))
    return float(int(target * width / height)), float(target)
