"""What the bytes of a shard set follow from, so that an interrupted writer's work is kept only for the same set."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adaptive_ft.data.format.manifest import FORMAT_VERSION, ShardInfo, answer_table_hash


def shard_plan(files: Iterable[Path], info: ShardInfo, **cut: object) -> dict[str, Any]:
    """A small plan of JSON: what is told about the set, how it is `cut`, and the files it is made of.

    Files, in this order, count by name, size and the time of their last change; no byte of them is read.
    """
    digest, listed = hashlib.sha256(), list(files)
    for path in listed:
        digest.update(json.dumps(_known(path)).encode())
    told = asdict(info)
    told["answer_table"] = answer_table_hash(info.answer_table)
    return {
        "created_with": f"adaptive-ft {version('adaptive-ft')}, format {FORMAT_VERSION}",
        "set": told,
        "cut": cut,
        "files": {"number": len(listed), "sha256": digest.hexdigest()},
    }


def _known(path: Path) -> list[object]:
    try:
        found = path.stat()
        return [str(path.resolve()), found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):  # whoever reads it says what is wrong with it
        return []
