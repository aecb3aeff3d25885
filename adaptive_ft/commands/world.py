"""adaptive-ft world: generate the embedded image-text world."""

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_ft.data.world.config import WorldConfig
from adaptive_ft.embedded import make_world


@dataclass
class Command:
    """Generate pictures, regions, questions and answers of two domains as shards with a tokenizer."""

    folder: Path = Path("data/world")
    """Where the world goes; an equal world that is already there is kept."""
    world: WorldConfig = field(default_factory=WorldConfig)

    def run(self) -> None:
        """Generate, then say what was made."""
        for name, manifest in make_world(self.folder, self.world).items():
            print(f"{self.folder / name}: {manifest.images} images, {manifest.questions} questions")
