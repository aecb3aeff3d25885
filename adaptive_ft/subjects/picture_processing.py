"""How a base model wants its pictures: frame and measure of pixels, from the preprocessor_config.json beside it."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil

from adaptive_ft.data.pixels import Framing
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.classification import WHITE_LEVEL, Normalisation

logger = logging.getLogger(__name__)
PROCESSOR_FILE = "preprocessor_config.json"
UNCHANGED = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class PictureProcessing:
    """Measure of pixels, and the frame; None stretches a picture to the size the model takes."""

    normalisation: Normalisation = field(default_factory=Normalisation)
    framing: Framing | None = None

    def save(self, folder: Path, framing: Framing) -> None:
        """Write the image processor that does the same with pictures in `framing`, as preprocessor_config.json."""
        square = {"height": framing.resized_to, "width": framing.resized_to}
        ViTImageProcessorPil(
            size={"shortest_edge": framing.resized_to} if framing.keeps_shape else square,
            resample=int(framing.resample),
            do_center_crop=True,
            crop_size={"height": framing.side, "width": framing.side},
            image_mean=list(self.normalisation.mean),
            image_std=list(self.normalisation.std),
        ).save_pretrained(folder)


def load_processing(name: str | None) -> PictureProcessing:
    """What the base model `name` (folder or hub id, None for random weights) says of pictures; ViT's way if nothing.

    Raises:
        UserError: its preprocessor_config.json cannot be read, or asks for what the readers do not do.
    """
    if name is None:
        return PictureProcessing()
    is_folder = Path(name).is_dir()
    if is_folder and not (Path(name) / PROCESSOR_FILE).is_file():
        return _silent(name)
    try:
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not is_folder:
            return _silent(name)
        raise UserError(f"{PROCESSOR_FILE} of '{name}' cannot be read: {' '.join(str(error).split())}") from error
    return PictureProcessing(_normalisation(name, processor), _framing(name, processor))


def _silent(name: str) -> PictureProcessing:
    found = PictureProcessing()
    mean, std = (list(values) for values in (found.normalisation.mean, found.normalisation.std))
    logger.warning(
        "No %s was found with '%s': pictures are stretched to its size, pixels get mean %s and spread %s.",
        PROCESSOR_FILE, name, mean, std,
    )  # fmt: skip
    return found


def _normalisation(name: str, processor: Any) -> Normalisation:
    if not processor.do_normalize:
        return UNCHANGED
    # Shares of full brightness, for a processor that measures in other units.
    white = WHITE_LEVEL * processor.rescale_factor if processor.do_rescale else WHITE_LEVEL
    given = (processor.image_mean, processor.image_std)
    mean, std = ([value / white for value in values] if isinstance(values, (list, tuple)) else [] for values in given)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"{PROCESSOR_FILE} of '{name}' has the mean {mean} and the spread {std}; three colours are read."
        )
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _framing(name: str, processor: Any) -> Framing | None:
    """The processor's frame, None with a warning where it does not make squares of one size by resizing and cutting."""
    size = processor.size
    cut = processor.crop_size if processor.do_center_crop else size
    edge, side = size.shortest_edge or size.height, cut.height
    is_square = cut.height == cut.width and (size.shortest_edge or size.height == size.width)
    if not (processor.do_resize and is_square and edge and side and side <= edge and not size.longest_edge):
        logger.warning(
            "%s of '%s' does not resize and cut pictures to squares: they are stretched to the model's size.",
            PROCESSOR_FILE, name,
        )  # fmt: skip
        return None
    return Framing(side, edge, bool(size.shortest_edge), Image.Resampling(processor.resample))
