"""adaptive-ft export: a trained run becomes a folder of safetensors that transformers, or this library, loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from adaptive_ft.exporting import check_free, export_adaptive, export_merged, is_mergeable
from adaptive_ft.saving import restore
from adaptive_ft.tracking import quiet_libraries


@dataclass
class Command:
    """Write a run's model in float32 from any ZeRO stage: as a plain Hugging Face model where one set of weights stands
    for all inputs, else as an adaptive model (AdaptiveModel.from_pretrained).
    """

    run_folder: Positional[Path]
    """Run folder, as train.py made it."""
    destination: Positional[Path]
    """New folder for the model."""
    which: Literal["latest", "best"] = "best"
    adaptive: bool = False
    """Write an adaptive model also where a plain one could be had: pretrained weights stay apart from what was learned.
    """

    def run(self) -> None:
        """Restore, write, and say what was written and how to load it."""
        quiet_libraries()
        check_free(self.destination)
        restored = restore(self.run_folder, self.which)
        told = f"{self.run_folder} ({self.which}, update {restored.step}) is now"
        if self.adaptive or not is_mergeable(restored):
            export_adaptive(restored, self.destination)
            print(f"{told} an adaptive model in {self.destination}, on the base {restored.config.model.name};", end=" ")
            print("load it with AdaptiveModel.from_pretrained")
        else:
            export_merged(restored, self.destination)
            print(f"{told} a plain model in {self.destination};", end=" ")
            print(f"load it with transformers, or train from it with --model.name {self.destination}")
