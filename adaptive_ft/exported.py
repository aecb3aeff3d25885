"""The mark by which an exported model is known as a certain run's: a finished run finds its own export done.

    FOLDER/exported_from.json    {"checkpoint": its tag, "manifest_sha256": of the checkpoint's manifest.json}

The manifest lists every file of the checkpoint by its SHA-256, so no other checkpoint of any run has this mark; it is
written before the folder takes its name.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from adaptive_ft.analysis.table import SUMMARY
from adaptive_ft.engine.checkpoint import BEST, MANIFEST, sha256_of
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.whole_files import read_json_object

MARK = "exported_from.json"


def mark_of(checkpoint: Path) -> dict[str, str]:
    """The mark of what is exported from the checkpoint in folder `checkpoint`."""
    return {"checkpoint": checkpoint.name, "manifest_sha256": sha256_of(checkpoint / MANIFEST)}


def in_use(destination: Path) -> bool:
    """Whether something lies where a model is to be exported."""
    return destination.exists() and (not destination.is_dir() or any(destination.iterdir()))


def is_export_of(folder: RunFolder, destination: Path) -> bool:
    """Whether the model in `destination` was exported whole from the best checkpoint that the run in `folder` has."""
    tag = folder.checkpoints.pointed(BEST)
    if tag is None or not folder.checkpoints.is_written(tag):
        return False
    return _read(destination / MARK) == mark_of(folder.checkpoints.folder / tag)


def check_destination(destination: str | None, folder: RunFolder, total_updates: int) -> None:
    """Refuse to export where something lies, but for the export of this very run, finished after `total_updates`.

    Raises:
        UserError: the way out is another folder.
    """
    if destination is None or not in_use(Path(destination)):
        return
    finished = (_read(folder.path / SUMMARY) or {}).get("steps") == total_updates
    if not (finished and is_export_of(folder, Path(destination))):
        raise UserError(f"--export_to '{destination}' is in use: choose a new folder, or remove it first.")


def _read(file: Path) -> dict[str, Any] | None:
    """The JSON object in `file`; None where nothing of this run can be read, whatever else lies there."""
    with suppress(UserError):
        return read_json_object(file)
    return None
