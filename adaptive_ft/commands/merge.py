"""adaptive-ft merge: several shard sets of one kind become one."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tyro.conf import Positional

from adaptive_ft.commands.repack import repack
from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.sources.packed import info_of_merged, packed_images
from adaptive_ft.data.writing.shards import IMAGES_PER_SHARD
from adaptive_ft.data.writing.unfinished import check_free
from adaptive_ft.errors import UserError


@dataclass
class Command:
    """Write the samples of several shard sets, in their order, to a new one. No image or question may be in two."""

    output: Positional[Path]
    """New folder for the shards."""
    sets: Positional[tuple[Path, ...]]
    """Shard sets with the same answers, extractor, size and type of features."""
    split: str | None = None
    """Split of the new set; default: the one that all sets have."""
    images_per_shard: int = IMAGES_PER_SHARD
    processes: int = 1
    """How many processes read, check and write; the shards are the same with any number."""
    verify: bool = False
    """Read every byte back before the shards get their name."""

    def run(self) -> None:
        """Compare, copy, and say what was written."""
        if len(self.sets) < 2:
            raise UserError(
                "adaptive-ft merge OUTPUT SET SET ... needs two sets or more; adaptive-ft reshard takes one"
            )
        check_free(self.output)
        manifests = [Manifest.load(folder) for folder in self.sets]
        info = info_of_merged(self.sets, manifests, self.split)
        images = chain.from_iterable(map(packed_images, self.sets))
        repack(self, dict(zip(self.sets, manifests, strict=True)), images, info)
