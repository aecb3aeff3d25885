"""The batches streams hand out, before any task has looked at them.

Shape suffixes: B questions, N regions (padded to the most any image of the shard set has), D feature size,
4 = x1 y1 x2 y2, 2 = width height; 3 = red green blue, H and W rows and columns of pixels.
"""

from dataclasses import dataclass

from torch import Tensor

from adaptive_ft.data.records import Question

# Stands in rows that hold no example.
NO_QUESTION = Question(question_id=-1, text="", question_type="", answer_type="", answers=(), scores={})


@dataclass(slots=True)
class Examples:
    """What every batch tells of its B rows, whatever is read of their images.

    valid_B bool, False where a row must not be counted: an evaluation was filled up to equal batches, or the sample is
    damaged and was left out.
    """

    questions: list[Question]
    image_ids: list[str]
    valid_B: Tensor


@dataclass(slots=True)
class RawBatch(Examples):
    """B questions with the regions of their images.

    features_BND float16 or float32, as stored; boxes_BN4 float32 in pixels; box_mask_BN bool, True where a region is
    real; sizes_B2 float32 picture width and height in pixels. Padding regions hold zeros.
    """

    features_BND: Tensor
    boxes_BN4: Tensor
    box_mask_BN: Tensor
    sizes_B2: Tensor


@dataclass(slots=True)
class PictureBatch(Examples):
    """B labelled pictures: pixels_B3HW uint8, red green blue, all of the one size the model takes."""

    pixels_B3HW: Tensor
