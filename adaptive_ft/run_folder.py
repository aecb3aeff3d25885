"""The folder of one run: its name, its config, its summary; never two runs in one folder.

runs/NAME/config.yaml      the resolved config          runs/NAME/metrics.jsonl   one line per logging interval and
epoch runs/NAME/plots/           pictures and their CSVs      runs/NAME/checkpoints/    see engine/checkpoint.py
runs/NAME/summary.json     the row of the strategy table, written when the run has finished
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_ft.config import RunConfig, dump_run_config
from adaptive_ft.engine.checkpoint import CheckpointFolder, write_atomically
from adaptive_ft.errors import UserError
from adaptive_ft.strategies import DECIDED, canonical


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def plots(self) -> Path:
        """Pictures and CSVs."""
        return self.path / "plots"

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Whole checkpoints and their pointer."""
        return CheckpointFolder(self.path / "checkpoints")

    @property
    def base(self) -> Path:
        """The random weights a run without a pretrained model started from."""
        return self.path / "base"

    @property
    def config_file(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    def write_config(self, config: RunConfig) -> None:
        """Write config.yaml; in a folder that is resumed only when its checkpoint has accepted the config."""
        write_atomically(self.config_file, dump_run_config(config))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json atomically: its presence says that the run has finished."""
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=1))


def open_run_folder(config: RunConfig) -> RunFolder:
    """Make or find the folder of a run (rank 0 only).

    A fresh run gets a new folder: `name`, or strategy-policy with the first free number. `--resume auto` takes the
    existing one.

    Raises:
        UserError: the named folder is taken and the run does not resume; or `resume` is not a word we know.
    """
    if config.resume not in ("none", "auto"):
        raise UserError(f"--resume takes none or auto, not '{config.resume}'.")
    root = Path(config.output_dir)
    stem = config.name or default_name(config)
    if config.name is None:
        taken = _numbered(root, stem)
        if config.resume == "auto" and taken:
            path = taken[-1]
        else:
            path = root / (stem if not taken else f"{stem}-{len(taken) + 1}")
    else:
        path = root / stem
    if config.resume == "none" and path.exists() and any(path.iterdir()):
        raise UserError(
            f"The run folder '{path}' is not empty: continue it with --resume auto, or choose another --name."
        )
    folder = RunFolder(path)
    folder.plots.mkdir(parents=True, exist_ok=True)
    return folder


def default_name(config: RunConfig) -> str:
    """strategy-policy, or the strategy alone where nothing is left to decide."""
    strategy = canonical(config.adapt.strategy)
    return f"{strategy}-{config.adapt.policy.kind}" if strategy in DECIDED else strategy


def _numbered(root: Path, stem: str) -> list[Path]:
    """Existing folders stem, stem-2, stem-3, ... up to the first gap."""
    found: list[Path] = []
    while (path := root / (stem if not found else f"{stem}-{len(found) + 1}")).exists():
        found.append(path)
    return found
