"""Checkpoint folders that are either whole or not there.

DeepSpeed writes its `latest` before the other ranks have finished and puts every file straight under its final name,
so a kill leaves a pointer to a torn checkpoint (reproduced with 0.19.8). Here all ranks write into a fresh folder;
after a barrier rank 0 lists every file with size and SHA-256 in `manifest.json`, gives the folder its name, and moves
the pointer `latest` in one atomic rename. What has no manifest does not exist. The fresh folder's name is this start's
own: a rank of an earlier one that wakes up in the midst of a save still writes into its own, which nobody reads.

    checkpoints/latest                       the tag of the newest whole checkpoint
    checkpoints/best                         the tag of the one with the best validation score
    checkpoints/step_000120/manifest.json    {"step", "best_step" (of that moment), what a resume must share,
                                              "files": {name: {"bytes", "sha256"}}}
    checkpoints/step_000120/...              DeepSpeed's files
    checkpoints/step_000120/adaptive/        what `adaptive-ft eval` reads: the learned weights, answers, tokenizer
    checkpoints/step_000160.unfinished-2-5f0c9a1e/    being written by generation 2 of the run
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptive_ft.engine.generation import Generation
from adaptive_ft.whole_files import flush, write_whole

MANIFEST = "manifest.json"
LATEST, BEST = "latest", "best"
FORMER = "-former"
TAG = re.compile(r"step_(\d+)")


class CheckpointFolder:
    """The `checkpoints` folder of one run; used by rank 0 alone, but for `check` and the names.

    Whatever writes raises `TakenOver` where the folder is another generation's; None is for those who only read.
    """

    def __init__(self, folder: Path, generation: Generation | None = None) -> None:
        self.folder = folder
        self._generation = generation

    def check(self) -> None:
        """Raise `TakenOver` where a newer start of the run owns the folder (any rank, before it writes)."""
        if self._generation is not None:
            self._generation.check()

    @staticmethod
    def tag(step: int) -> str:
        """The folder name of the checkpoint after `step` updates."""
        return f"step_{step:06d}"

    def unfinished(self, tag: str) -> str:
        """The folder name under which all ranks of this start write `tag`, until `finish` gives it its own."""
        return f"{tag}.unfinished-{self._generation.own_name if self._generation else 'own'}"

    def inside(self, tag: str) -> "CheckpointFolder":
        """A folder of the same start for what is made of checkpoint `tag`, and lies in it."""
        return CheckpointFolder(self.folder / tag, self._generation)

    def begin(self, tag: str) -> Path:
        """Make the folder to write `tag` into; what interrupted saves have left is removed."""
        self.abandon()
        place = self.folder / self.unfinished(tag)
        place.mkdir(parents=True)
        return place

    def settle(self) -> None:
        """Give a checkpoint its name back that a save of the same tag had set aside when it was killed."""
        self.check()
        for aside in self.folder.glob(f"step_*{FORMER}"):
            tag = aside.name.partition(".")[0]
            if not (self.folder / tag).exists():
                os.replace(aside, self.folder / tag)
                flush(self.folder)

    def abandon(self) -> None:
        """Remove every checkpoint that nobody has finished."""
        self.settle()
        for left in self.folder.glob("step_*.unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)

    def remove(self, tag: str) -> None:
        """Remove checkpoint `tag`, its manifest first."""
        self.check()
        (self.folder / tag / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder / tag, ignore_errors=True)

    def finish(self, tag: str, facts: dict[str, Any], pointers: Sequence[str] = (LATEST,)) -> None:
        """Declare `tag` whole: flush its files, write the manifest, give the folder its name (in place of a torn one),
        then move the pointers in their order. Call it after a barrier of all ranks.
        """
        place = self.folder / self.unfinished(tag)
        files = {}
        for path in sorted(place.rglob("*")):
            flush(path)
            if path.is_file():
                fact = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                files[path.relative_to(place).as_posix()] = fact
        write_whole(place / MANIFEST, json.dumps({**facts, "files": files}, indent=1))
        self.check()
        own, aside = self.folder / tag, self.folder / f"{self.unfinished(tag)}{FORMER}"
        if own.exists():
            os.replace(own, aside)  # a kill before the next line is made good by `settle`
        os.replace(place, own)
        flush(self.folder)
        shutil.rmtree(aside, ignore_errors=True)
        for pointer in pointers:
            self.point(pointer, tag)

    def point(self, pointer: str, tag: str) -> None:
        """Move `pointer` (latest or best) to `tag` in one atomic rename."""
        write_whole(self.folder / pointer, tag + "\n", self.check)

    def pointed(self, pointer: str) -> str | None:
        """The tag `pointer` names, None where there is no such pointer yet, or none that can be read."""
        path = self.folder / pointer
        tag = path.read_bytes().decode(errors="replace").strip() if path.is_file() else ""
        return tag if TAG.fullmatch(tag) else None

    def is_written(self, tag: str) -> bool:
        """Whether `tag` was declared whole; its files may have suffered since (see `faults`)."""
        return (self.folder / tag / MANIFEST).is_file()

    def faults(self, tag: str) -> list[str]:
        """What is wrong with checkpoint `tag`, in words; empty when every file is there with its size and hash."""
        place = self.folder / tag
        if not self.is_written(tag):
            return ["it has no manifest: the save was interrupted"]
        try:
            listed = [(name, fact["bytes"], fact["sha256"]) for name, fact in self.read_manifest(tag)["files"].items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"its {MANIFEST} is damaged"]
        found = []
        for name, size, sha256 in listed:
            path = place / name
            try:
                if not path.is_file():
                    found.append(f"{name} is missing")
                elif path.stat().st_size != size:
                    found.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
                elif sha256_of(path) != sha256:
                    found.append(f"{name} has another SHA-256 than when it was written")
            except OSError as error:
                found.append(f"{name} cannot be read ({error.strerror})")
        return found

    def newest_whole(self) -> tuple[str | None, list[str]]:
        """The tag to resume from (the pointer's, else the newest whole one before it) and a sentence for each one
        passed over. Call `settle` before.
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
        """Keep the newest `limit` checkpoints up to the pointer's, and the best one, also of the moment of each of
        them, for a resume may fall back to it; remove the older ones, and what an interrupted removal has left of
        others. At most one more than `limit` stays.
        """
        latest, best = self.pointed(LATEST), self.pointed(BEST)
        for tag in self._tags():
            if latest and _step(tag) < _step(latest) and not self.is_written(tag):
                self.remove(tag)
        written = [tag for tag in self._tags() if self.is_written(tag)]
        # What is newer than the pointer is not of this run's past: it must not push out what is.
        past = written[written.index(latest) :] if latest in written else []
        needed = {best, *(self._best_then(tag) for tag in past[:limit])}
        for tag in past[limit:]:
            if tag not in needed:
                self.remove(tag)

    def forget_after(self, tag: str) -> None:
        """Remove every checkpoint newer than `tag`: a run that goes on from `tag` has passed them over."""
        self.abandon()
        for newer in self._tags():
            if _step(newer) > _step(tag):
                self.remove(newer)

    def _best_then(self, tag: str) -> str | None:
        """The tag that was the best when `tag` was written; None where its manifest does not tell."""
        try:
            return self.tag(self.read_manifest(tag)["best_step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _candidates(self) -> list[str]:
        pointed = self.pointed(LATEST)
        return list(dict.fromkeys(([pointed] if pointed else []) + self._tags()))

    def _tags(self) -> list[str]:
        """Newest first, by number: step_1000000 comes after step_999999."""
        tags = [path.name for path in self.folder.glob("step_*") if path.is_dir() and TAG.fullmatch(path.name)]
        return sorted(tags, key=_step, reverse=True)


def _step(tag: str) -> int:
    """The number in a tag."""
    return int(tag.removeprefix("step_"))


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
