"""adaptive-ft pictures: generate labelled pictures, to try image classification without a download."""

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_ft.data.world.labelled import PicturesConfig
from adaptive_ft.embedded import make_pictures


@dataclass
class Command:
    """Generate labelled pictures of two domains as shards."""

    folder: Path = Path("data/pictures")
    """Where they go; equal ones that are already there are kept."""
    pictures: PicturesConfig = field(default_factory=PicturesConfig)

    def run(self) -> None:
        """Generate, then say what was made."""
        for name, manifest in make_pictures(self.folder, self.pictures).items():
            print(f"{self.folder / name}: {manifest.images} pictures of {len(manifest.answer_table)} classes")
