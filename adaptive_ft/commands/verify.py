"""adaptive-ft verify: read every byte of a shard set and compare it with its manifest."""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tyro.conf import Positional

from adaptive_ft.data.reading.shard_set import verify


@dataclass
class Command:
    """Check hashes, members and counts of a folder of shards."""

    folder: Positional[Path]

    def run(self) -> None:
        """Verify; the error names every shard that differs."""
        manifest = verify(self.folder, progress=tqdm)
        print(f"{self.folder}: {manifest.images} images and {manifest.questions} questions are as the manifest says")
