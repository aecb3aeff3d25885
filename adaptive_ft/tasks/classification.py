"""Image classification: a picture in, one class out.

Shapes: B pictures, 3 = red green blue, H and W rows and columns of pixels, A classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft.data.reading.batch import PictureBatch
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.choice import AnswerChoice

WHITE_LEVEL = 255.0


@dataclass
class PictureConfig:
    """Options of image classification."""

    flip_probability: float = 0.0
    """Share of training pictures that are mirrored, left to right."""
    smallest_crop: float = 1.0
    """Training pictures show a random part with sides of at least this share, enlarged; 1 is the whole picture."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and spread of each colour, as shares of full brightness, that a base model's pixels are measured by."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        """uint8 pixels as float32 (pixels / 255 - mean) / std."""
        # In one multiplication and one addition per pixel.
        sides = (torch.tensor(values, device=pixels_B3HW.device) for values in (self.mean, self.std))
        mean_311, std_311 = (values.view(3, 1, 1) for values in sides)
        return torch.addcmul(-mean_311 / std_311, pixels_B3HW.float(), 1 / (WHITE_LEVEL * std_311))


class ClassificationTask(AnswerChoice):
    """Classification as the choice of the class in `classes` that is a picture's label."""

    def __init__(
        self, classes: Sequence[str], normalise: Normalisation | None = None, config: PictureConfig | None = None
    ) -> None:
        super().__init__(classes)
        self._normalise = normalise or Normalisation()
        self._config = config or PictureConfig()

    def augment(self, raw: PictureBatch) -> PictureBatch:
        """Each picture cut and mirrored at random, as the options say."""
        pixels_B3HW, rows = raw.pixels_B3HW, len(raw.questions)
        if self._config.smallest_crop < 1:
            pixels_B3HW = crop(pixels_B3HW, self._config.smallest_crop)
        if self._config.flip_probability:
            flipped_B = torch.rand(rows) < self._config.flip_probability
            pixels_B3HW = torch.where(flipped_B.view(-1, 1, 1, 1), pixels_B3HW.flip(3), pixels_B3HW)
        return replace(raw, pixels_B3HW=pixels_B3HW)

    def collate(self, raw: PictureBatch) -> TaskBatch:
        """Raw pictures -> normalised `pixel_values` and one-hot targets, all on the CPU."""
        inputs = {"pixel_values": self._normalise(raw.pixels_B3HW)}
        return TaskBatch(inputs, self.targets(raw), list(raw.questions), raw.valid_B)

    def logits(self, outputs: Any) -> Tensor:
        """The logits [B, A] in the output of a Hugging Face image classifier."""
        return outputs.logits

    def losses(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """Cross-entropy of each row; float32 [B]; 0 for rows that are not valid."""
        smoothing = self._config.label_smoothing
        loss_B = F.cross_entropy(logits_BA.float(), batch.targets_BA, reduction="none", label_smoothing=smoothing)
        return torch.where(batch.valid_B, loss_B, 0.0)

    def loss(self, logits_BA: Tensor, batch: TaskBatch) -> Tensor:
        """Cross-entropy, mean over valid rows; float32 scalar; 0 when no row is valid."""
        return self.losses(logits_BA, batch).sum() / batch.valid_B.sum().clamp(min=1)


def crop(pixels_B3HW: Tensor, smallest: float) -> Tensor:
    """A random part of each picture, its sides `smallest` to all of the picture's, enlarged to the whole again."""
    rows = len(pixels_B3HW)
    share_B2 = smallest + (1 - smallest) * torch.rand(rows, 2)
    middle_B2 = (1 - share_B2) * (2 * torch.rand(rows, 2) - 1)  # the picture reaches from -1 to 1
    cut_B23 = torch.cat([torch.diag_embed(share_B2), middle_B2.unsqueeze(2)], dim=2)
    grid_BHW2 = F.affine_grid(cut_B23, list(pixels_B3HW.shape), align_corners=False)
    cut_B3HW = F.grid_sample(pixels_B3HW.float(), grid_BHW2, padding_mode="border", align_corners=False)
    return cut_B3HW.round().to(torch.uint8)
