"""What a run's examples are about: everything in which questions about regions and labelled pictures differ."""

from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel

from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.models.loading import DataFacts
from adaptive_ft.tasks.task import Task


class Subject(Protocol):
    """How examples of one kind are read, put to a base model, and kept readable."""

    @property
    def noun(self) -> str:
        """What an example is, in the plural."""

    @property
    def facts(self) -> DataFacts:
        """What the data asks of a base model."""

    def fit(self, shards: ShardSet, base: PreTrainedModel) -> ShardSet:
        """The shards as `base` reads them; raises UserError where it cannot."""

    def task(self, config: RunConfig, base: PreTrainedModel) -> Task:
        """The task as the family of `base` is asked; raises UserError for options that do not fit `base`."""

    def save(self, folder: Path, base: PreTrainedModel) -> None:
        """Write what reads such examples beside a model in `folder`, in the files of transformers."""
