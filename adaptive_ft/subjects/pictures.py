"""Labelled pictures: read in the frame the base model takes, measured as it was pretrained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from adaptive_ft.config import RunConfig
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.pixels import Framing
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.models.bases.pictures import fed_side, image_size_of
from adaptive_ft.models.loading import DataFacts
from adaptive_ft.subjects.picture_processing import PictureProcessing
from adaptive_ft.tasks.classification import ClassificationTask
from adaptive_ft.tasks.task import Task


@dataclass(frozen=True)
class Pictures:
    """Pictures with one label each; the classes are the answer table."""

    answer_table: Sequence[str]
    processing: PictureProcessing
    noun: str = "pictures"

    @property
    def facts(self) -> DataFacts:
        """What the data asks of a base model: an output per class."""
        return DataFacts(self.answer_table, content=LABELLED_PICTURES)

    def fit(self, shards: ShardSet, base: PreTrainedModel) -> ShardSet:
        """The pictures in the frame `base` takes; raises UserError for shards of something else."""
        return shards.with_pictures(self.framing(base))

    def framing(self, base: PreTrainedModel) -> Framing:
        """The frame of the image processor, at the size `base` takes; raises UserError if that is not square."""
        config, asked = base.config, self.processing.framing
        if asked is None:
            return Framing(image_size_of(config, config.name_or_path))
        return asked.of_side(fed_side(config, asked.side, config.name_or_path))

    def task(self, config: RunConfig, base: PreTrainedModel) -> Task:
        """Classification, with the options of the pictures."""
        return ClassificationTask(self.answer_table, self.processing.normalisation, config.pictures)

    def save(self, folder: Path, base: PreTrainedModel) -> None:
        """Write the image processor that does what this run's readers do, as preprocessor_config.json."""
        self.processing.save(folder, self.framing(base))
