"""Labelled pictures: read at the size the base model takes, measured as it was pretrained."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import ImageProcessingMixin, PreTrainedModel, ViTImageProcessorPil

from adaptive_ft.config import RunConfig
from adaptive_ft.data.manifest import LABELLED_PICTURES
from adaptive_ft.data.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.pictures import image_size_of
from adaptive_ft.models.loading import DataFacts
from adaptive_ft.tasks.classification import ClassificationTask, Normalisation
from adaptive_ft.tasks.task import Task

logger = logging.getLogger(__name__)
PROCESSOR_FILE = "preprocessor_config.json"
UNCHANGED = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Pictures:
    """Pictures with one label each; the classes are the answer table."""

    answer_table: Sequence[str]
    normalisation: Normalisation
    noun: str = "pictures"

    @property
    def facts(self) -> DataFacts:
        """What the data asks of a base model: an output per class."""
        return DataFacts(self.answer_table, content=LABELLED_PICTURES)

    def fit(self, shards: ShardSet, base: PreTrainedModel) -> ShardSet:
        """The pictures at the size `base` takes; raises UserError for shards of something else."""
        return shards.with_pictures(image_size_of(base.config, base.config.name_or_path))

    def task(self, config: RunConfig, base: PreTrainedModel) -> Task:
        """Classification, with the options of the pictures."""
        return ClassificationTask(self.answer_table, self.normalisation, config.pictures)

    def save(self, folder: Path, base: PreTrainedModel) -> None:
        """Write the image processor that does what this run's readers do, as preprocessor_config.json."""
        side = image_size_of(base.config)
        size = {"height": side, "width": side}
        mean, std = list(self.normalisation.mean), list(self.normalisation.std)
        ViTImageProcessorPil(size=size, image_mean=mean, image_std=std).save_pretrained(folder)


def load_normalisation(name: str | None) -> Normalisation:
    """How the base model `name` (folder or hub id, None for random weights) measures pixels; ViT's way if it is silent.

    Raises:
        UserError: its preprocessor_config.json cannot be read.
    """
    if name is None:
        return Normalisation()
    if Path(name).is_dir() and not (Path(name) / PROCESSOR_FILE).is_file():
        return _silent(name)
    try:
        content, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError as error:
        if not Path(name).is_dir():
            return _silent(name)
        raise UserError(f"{PROCESSOR_FILE} of '{name}' cannot be read: {' '.join(str(error).split())}") from error
    return _told(name, content)


def _silent(name: str) -> Normalisation:
    found = Normalisation()
    logger.warning(
        "No %s was found with '%s': pixels get mean %s and spread %s.", PROCESSOR_FILE, name, *_told_as(found)
    )
    return found


def _told_as(normalisation: Normalisation) -> tuple[str, str]:
    return json.dumps(normalisation.mean), json.dumps(normalisation.std)


def _told(name: str, content: Mapping[str, Any]) -> Normalisation:
    if not content.get("do_normalize", True):
        return UNCHANGED
    mean, std = (tuple(map(float, content.get(key, (0.5, 0.5, 0.5)))) for key in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"{PROCESSOR_FILE} of '{name}' has the mean {mean} and the spread {std}; three colours are read."
        )
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
