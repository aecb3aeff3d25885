"""adaptive-ft reshard: another cut of the same samples, or another type of features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from adaptive_ft.commands.repack import repack
from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.sources.packed import info_of, packed_images
from adaptive_ft.data.writing.shards import IMAGES_PER_SHARD
from adaptive_ft.data.writing.unfinished import check_free


@dataclass
class Command:
    """Write the samples of a shard set, in their order, to a new one with another number of images in a shard."""

    source: Positional[Path]
    """Shard set to read; every byte is compared with its hash."""
    output: Positional[Path]
    """New folder for the shards."""
    images_per_shard: int = IMAGES_PER_SHARD
    feature_dtype: Literal["float16", "float32"] | None = None
    """Type in which features are stored; default: as they are."""
    processes: int = 1
    """How many processes read, check and write; the shards are the same with any number."""
    verify: bool = False
    """Read every byte back before the shards get their name."""

    def run(self) -> None:
        """Copy, and say what was written."""
        check_free(self.output)
        manifest = Manifest.load(self.source)
        info = info_of(self.source, manifest, feature_dtype=self.feature_dtype or manifest.feature_dtype)
        repack(self, {self.source: manifest}, packed_images(self.source), info)
