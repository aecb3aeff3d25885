"""Which reader a shard set gets: each kind makes the batch of its kind, so that no stream asks what is in it.

Readers are shared by threads: they keep no state but caches.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.reading.bad_samples import BadSamples
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.picture_reader import PictureReader
from adaptive_ft.data.reading.region_reader import BlindReader, RegionReader
from adaptive_ft.data.reading.shard_set import BlindShardSet, PictureShardSet, ShardSet
from adaptive_ft.errors import UserError


class BatchReader(Protocol):
    """Makes batches of examples given by their numbers."""

    def read_batch(self, examples: Sequence[int], num_valid: int | None = None) -> Any:
        """The batch of these examples; rows from `num_valid` on, and those left out as damaged, are not valid."""

    def close(self) -> None:
        """Forget what was parsed; what is read afterwards is parsed again."""


def open_reader(shards: ShardSet, bad: BadSamples, memory: BatchMemory) -> BatchReader:
    """The reader that fits a shard set, tells `bad` of damaged samples and makes its batches in `memory`.

    Raises UserError if the set was opened as it cannot be read.
    """
    if isinstance(shards, PictureShardSet):
        return PictureReader(shards, bad, memory)
    if isinstance(shards, BlindShardSet):
        return BlindReader(shards, bad, memory)
    if shards.manifest.content == LABELLED_PICTURES:
        raise UserError(f"the shards in '{shards.address}' hold labelled pictures, no questions about regions")
    if shards.manifest.min_boxes == 0:
        raise UserError(f"the shards in '{shards.address}' hold questions without regions; read them with --data.blind")
    return RegionReader(shards, bad, memory)
