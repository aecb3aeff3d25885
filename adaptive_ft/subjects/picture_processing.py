"""How a base model wants its pictures: frame and measure of pixels, from the image processor beside it."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil
from transformers.models.auto.image_processing_auto import get_image_processor_config

from adaptive_ft.data.pixels import Framing
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.reading import refuse_missing
from adaptive_ft.tasks.classification import WHITE_LEVEL, Normalisation

logger = logging.getLogger(__name__)
PROCESSOR_FILE = "preprocessor_config.json"
# What transformers raises for JSON of another form: it looks at no types.
UNREADABLE = (OSError, ValueError, TypeError, AttributeError, LookupError)
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
        UserError: there is no such folder, its image processor cannot be read, or asks for what the readers do not do.
    """
    if name is None:
        return PictureProcessing()
    refuse_missing(name)
    is_folder = Path(name).is_dir()
    try:
        if is_folder and not _speaks_of_pictures(Path(name)):
            return _silent(name)
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except UNREADABLE as error:
        if isinstance(error, OSError) and not is_folder:
            return _silent(name)
        raise UserError(f"the image processor of '{name}' cannot be read: {' '.join(str(error).split())}") from error
    normalisation, framing = _normalisation(name, processor), _framing(name, processor)
    if framing is None:
        logger.warning(
            "The image processor of '%s' does not resize and cut pictures to squares: they are stretched to the"
            " model's size.", name,
        )  # fmt: skip
    return PictureProcessing(normalisation, framing)


def _speaks_of_pictures(folder: Path) -> bool:
    """Whether a file of its own tells the image processor, or that of a processor of pictures and texts around it."""
    return (folder / PROCESSOR_FILE).is_file() or get_image_processor_config(folder) != {}


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
    factor = processor.rescale_factor if processor.do_rescale else 1
    if not _is_number(factor) or not factor > 0:
        raise UserError(f"the image processor of '{name}' has the rescale_factor {factor!r}; a number above 0 is read.")
    mean, std = processor.image_mean, processor.image_std
    if not (_are_colours(mean) and _are_colours(std) and all(value > 0 for value in std)):
        raise UserError(
            f"the image processor of '{name}' has the mean {mean} and the spread {std}; three colours are read, a"
            " number each, and a spread above 0."
        )
    # Shares of full brightness, for a processor that measures in other units.
    white = WHITE_LEVEL * factor
    return Normalisation(
        (mean[0] / white, mean[1] / white, mean[2] / white), (std[0] / white, std[1] / white, std[2] / white)
    )


def _are_colours(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _framing(name: str, processor: Any) -> Framing | None:
    """The processor's frame, None where it does not make squares of one size by resizing and cutting."""
    size = processor.size
    cut = processor.crop_size if processor.do_center_crop else size
    if not processor.do_resize or size is None or cut is None:
        return None
    for option, told in (("size", dict(size)), ("crop_size", dict(cut))):
        if not all(isinstance(side, int) and side > 0 for side in told.values()):
            raise UserError(
                f"the image processor of '{name}' has the {option} {told}; whole numbers of pixels above 0 are read."
            )
    if processor.resample not in list(Image.Resampling):
        raise UserError(f"the image processor of '{name}' has the resample {processor.resample!r}; 0 to 5 are read.")
    edge, side = size.shortest_edge or size.height, cut.height
    is_square = cut.height == cut.width and (size.shortest_edge or size.height == size.width)
    if not (is_square and edge and side and side <= edge and not size.longest_edge):
        return None
    return Framing(side, edge, bool(size.shortest_edge), Image.Resampling(processor.resample))
