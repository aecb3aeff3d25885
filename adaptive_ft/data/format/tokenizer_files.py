"""The tokenizer that travels with a shard set: its files lie in the folder `tokenizer` beside the shards, and their
hashes in the manifest, so that a set that is copied, or read from elsewhere, is still read as it was meant.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import flush

TOKENIZER = "tokenizer"
# A folder of weights may hold a tokenizer too: only these are its files.
FILE_NAMES = frozenset(
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    ]
)


def tokenizer_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each of the tokenizer's files in `folder`, by name; UserError if there is none."""
    names = sorted(path.name for path in folder.iterdir() if path.name in FILE_NAMES)
    if not names:
        raise UserError(f"the folder '{folder}' holds no tokenizer; adaptive-ft tokenizer makes one")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def copy_tokenizer(folder: Path, shards: Path) -> None:
    """Put the tokenizer's files in `folder` into a shard folder that is being written."""
    (shards / TOKENIZER).mkdir(exist_ok=True)
    for name in tokenizer_hashes(folder):
        shutil.copyfile(folder / name, shards / TOKENIZER / name)
        flush(shards / TOKENIZER / name)
    flush(shards / TOKENIZER)


def check_tokenizer(shards: Path, expected: Mapping[str, str]) -> None:
    """UserError if a file of a set's tokenizer is missing or is not what the manifest says."""
    for name, sha256 in expected.items():
        path = shards / TOKENIZER / name
        if not path.is_file():
            raise UserError(f"{path} is missing, the manifest lists it; copy it again or write the shards again")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise UserError(
                f"{path} does not match the manifest: expected sha256 {sha256[:12]}, found {found[:12]}; copy it again"
            )
