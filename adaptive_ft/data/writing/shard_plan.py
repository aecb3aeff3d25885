"""What the bytes of a shard set follow from, so that an interrupted writer's work is kept only for the same set."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adaptive_ft.data.format.manifest import FORMAT_VERSION, ShardInfo, answer_table_hash
from adaptive_ft.data.format.tokenizer_files import tokenizer_hashes


def shard_plan(files: Mapping[str, Iterable[Path]], info: ShardInfo, **options: object) -> dict[str, Any]:
    """A small plan of JSON: what is told about the set, the `options` by which it is made, and its files by their role.

    Files of a role, in their order, count by name, size and the time of their last change; no byte of them is read.
    Whatever else the samples follow from belongs to `options`.
    """
    told = asdict(info)
    told["answer_table"] = answer_table_hash(info.answer_table)
    if isinstance(info.tokenizer, Path):
        told["tokenizer"] = tokenizer_hashes(info.tokenizer)
    return {
        "created_with": f"adaptive-ft {version('adaptive-ft')}, format {FORMAT_VERSION}",
        "set": told,
        "options": options,
        "files": {role: digest(map(_known, listed)) for role, listed in files.items()},
    }


def digest(entries: Iterable[object]) -> dict[str, Any]:
    """A list of what JSON can tell, of any length, in two values: the number of its entries and their SHA-256."""
    found, number = hashlib.sha256(), 0
    for entry in entries:
        found.update(json.dumps(entry).encode() + b"\n")
        number += 1
    return {"number": number, "sha256": found.hexdigest()}


def _known(path: Path) -> list[object]:
    try:
        found = path.stat()
        return [str(path.resolve()), found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):  # whoever reads it says what is wrong with it
        return []
