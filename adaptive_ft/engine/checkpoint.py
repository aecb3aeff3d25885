"""Checkpoint folders that are either whole or not there.

DeepSpeed writes its `latest` before the other ranks have finished and puts every file straight under its final name,
so a kill leaves a pointer to a torn checkpoint (reproduced with 0.19.8). Here all ranks write into a fresh folder;
after a barrier rank 0 lists every file with size and SHA-256 in `manifest.json` and moves the pointer `latest` in
one atomic rename. What has no manifest does not exist.

    checkpoints/latest                       the tag of the newest whole checkpoint
    checkpoints/best                         the tag of the one with the best validation score
    checkpoints/step_000120/manifest.json    {"step", "world_size", "zero_stage", "files": {name: {"bytes", "sha256"}}}
    checkpoints/step_000120/...              DeepSpeed's files
    checkpoints/step_000120/adaptive/        adaptive_config.json, adaptive_model.safetensors: what `adaptive-ft
    eval` reads
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
LATEST, BEST = "latest", "best"


class CheckpointFolder:
    """The `checkpoints` folder of one run; used by rank 0 alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def tag(step: int) -> str:
        """The folder name of the checkpoint after `step` updates."""
        return f"step_{step:06d}"

    def begin(self, tag: str) -> None:
        """Make room for `tag`: what an interrupted save or a torn checkpoint left there is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / tag / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder / tag, ignore_errors=True)

    def finish(self, tag: str, facts: dict[str, Any]) -> None:
        """Declare `tag` whole: flush its files, write the manifest, then move the pointer. Call it after a barrier
        of all ranks.
        """
        place = self.folder / tag
        files = {}
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            files[path.relative_to(place).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
        write_atomically(place / MANIFEST, json.dumps({**facts, "files": files}, indent=1))
        self.point(LATEST, tag)

    def point(self, pointer: str, tag: str) -> None:
        """Move `pointer` (latest or best) to `tag` in one atomic rename."""
        write_atomically(self.folder / pointer, tag + "\n")

    def pointed(self, pointer: str) -> str | None:
        """The tag `pointer` names, None where there is no such pointer yet."""
        path = self.folder / pointer
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def faults(self, tag: str) -> list[str]:
        """What is wrong with checkpoint `tag`, in words; empty when every file is there with its size and hash."""
        place = self.folder / tag
        if not (place / MANIFEST).is_file():
            return ["it has no manifest: the save was interrupted"]
        found = []
        for name, fact in self.read_manifest(tag)["files"].items():
            path = place / name
            if not path.is_file():
                found.append(f"{name} is missing")
            elif path.stat().st_size != fact["bytes"]:
                found.append(f"{name} has {path.stat().st_size} bytes instead of {fact['bytes']}")
            elif sha256_of(path) != fact["sha256"]:
                found.append(f"{name} has another SHA-256 than when it was written")
        return found

    def newest_whole(self) -> tuple[str | None, list[str]]:
        """The tag to resume from (the pointer's, else the newest whole one before it) and a sentence for each one
        passed over.
        """
        passed_over: list[str] = []
        for tag in self._candidates():
            faults = self.faults(tag)
            if not faults:
                return tag, passed_over
            passed_over.append(f"checkpoint {tag} is passed over: {faults[0]}.")
        return None, passed_over

    def read_manifest(self, tag: str) -> dict[str, Any]:
        """The manifest of checkpoint `tag`."""
        manifest: dict[str, Any] = json.loads((self.folder / tag / MANIFEST).read_text(encoding="utf-8"))
        return manifest

    def prune(self, limit: int) -> None:
        """Keep the newest `limit` whole checkpoints and the best one; remove the older ones."""
        whole = [tag for tag in self._tags() if (self.folder / tag / MANIFEST).is_file()]
        for tag in whole[limit:]:
            if tag != self.pointed(BEST):
                self.begin(tag)

    def _candidates(self) -> list[str]:
        pointed = self.pointed(LATEST)
        return list(dict.fromkeys(([pointed] if pointed else []) + self._tags()))

    def _tags(self) -> list[str]:
        """Newest first."""
        return sorted((path.name for path in self.folder.glob("step_*") if path.is_dir()), reverse=True)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` under a temporary name, flush it to the disk, and rename it to `path`: readers see all of it or
    nothing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
