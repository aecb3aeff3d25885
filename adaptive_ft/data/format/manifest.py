"""manifest.json: what a folder of shards holds, written last, so that a folder with a manifest is whole."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, cast

from adaptive_ft.data.format.tokenizer_files import TOKENIZER
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2
FEATURE_DTYPES = {"float16": "f16", "float32": "f32"}  # numpy name -> ending of the tar member
BOX_CONVENTION = "x1 y1 x2 y2, pixels"
_PLAIN: tuple[Any, ...] = (str, int, bool, str | None)
_FILE_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
QUESTIONS, LABELLED_PICTURES = CONTENTS = ("questions", "labelled pictures")


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What the writer of a shard set has to say about it.

    `feature_dtype` is how features are stored: "float16" or "float32". `tokenizer` is a hub id, or a folder
    whose tokenizer is copied into the set. `answered=False` declares a split without public answers. `content` is
    what an example is: a question, or a picture with one label of the answer table.
    """

    split: str
    domain: str
    feature_extractor: str
    answer_table: Sequence[str]
    tokenizer: str | Path | None = None
    feature_dtype: str = "float16"
    box_convention: str = BOX_CONVENTION
    answered: bool = True
    content: str = QUESTIONS

    def __post_init__(self) -> None:
        if self.feature_dtype not in FEATURE_DTYPES:
            raise UserError(f"feature_dtype '{self.feature_dtype}' is unknown; use {' or '.join(FEATURE_DTYPES)}")
        if self.box_convention != BOX_CONVENTION:
            raise UserError(f"box_convention '{self.box_convention}' is unknown; convert to '{BOX_CONVENTION}'")
        if self.content not in CONTENTS:
            raise UserError(f"content '{self.content}' is unknown; use one of {', '.join(CONTENTS)}")
        if self.answered and not self.answer_table:
            raise UserError(f"split '{self.split}' has answers, so it needs an answer table that is not empty")
        if len(set(self.answer_table)) != len(self.answer_table):
            raise UserError(f"the answer table of split '{self.split}' holds an answer twice")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file and its index: names, counts, size in bytes and hashes (hexadecimal)."""

    file: str
    images: int
    questions: int
    bytes: int
    sha256: str
    index_file: str
    index_sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json; no time stamps, so equal data gives equal bytes."""

    format_version: int
    created_with: str
    split: str
    domain: str
    answered: bool
    images: int
    questions: int
    feature_extractor: str
    feature_dim: int
    feature_dtype: str
    min_boxes: int
    max_boxes: int
    box_convention: str
    tokenizer: str | None
    answer_table_sha256: str
    answer_table: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    content: str = QUESTIONS
    """Sets written before there were labelled pictures do not tell it."""
    tokenizer_files: Mapping[str, str] = field(default_factory=dict)
    """Where the tokenizer travels with the set: its files in the folder `tokenizer`, and their SHA-256."""

    def save(self, folder: Path) -> None:
        """Write folder/manifest.json in one step: a reader sees the whole file or none."""
        write_whole(folder / MANIFEST_NAME, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    def tokenizer_from(self, folder: Path) -> str | Path | None:
        """The tokenizer of the set in `folder`: the folder it lies in, a hub id, or None."""
        return folder / TOKENIZER if self.tokenizer_files else self.tokenizer

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and check folder/manifest.json; UserError names what is wrong with it."""
        path = folder / MANIFEST_NAME
        if not folder.is_dir():
            what = f"'{folder}' is a file" if folder.is_file() else f"there is no folder '{folder}'"
            raise UserError(f"{what}; give the folder that holds {MANIFEST_NAME}")
        if not path.is_file():
            raise UserError(f"'{folder}' has no {MANIFEST_NAME}: no shard set, or its writing never finished")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON ({error}); write the shards again") from None
        try:
            manifest = cls._from_content(content, path)
            manifest._check(path)
        except (TypeError, AttributeError, UnicodeEncodeError) as error:
            raise UserError(f"{path} holds a value of the wrong kind ({error}); write the shards again") from None
        return manifest

    @classmethod
    def _from_content(cls, content: object, path: Path) -> Self:
        version = content.get("format_version") if isinstance(content, dict) else None
        if not isinstance(content, dict) or version != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}; write the shards again"
            )
        _require_keys(cls, content, str(path))
        shards = []
        for entry in content["shards"]:
            _require_keys(ShardEntry, entry, f"a shard entry of {path}")
            shards.append(ShardEntry(**entry))
        return cls(**{**content, "answer_table": tuple(content["answer_table"]), "shards": tuple(shards)})

    def _check(self, path: Path) -> None:
        told: Sequence[Manifest | ShardEntry] = (self, *self.shards)
        for name, value in ((name, getattr(each, name)) for each in told for name in each.__dataclass_fields__):
            if isinstance(value, int) and value < 0:
                raise UserError(f"{path}: '{name}' is {value}; it was edited, write the shards again")
        if not self.shards:
            raise UserError(f"{path} lists no shards; write the shards again")
        for name in ("images", "questions"):
            total, listed = getattr(self, name), sum(getattr(shard, name) for shard in self.shards)
            if total != listed:
                raise UserError(f"{path} says {total} {name}, its shards sum up to {listed}; it was edited")
        files = [name for shard in self.shards for name in (shard.file, shard.index_file)]
        files += self.tokenizer_files
        seen = Counter(files)
        for name in files:
            # They become parts of paths and, behind an address, of commands.
            if not _FILE_NAME.fullmatch(name) or seen[name] > 1:
                raise UserError(f"{path}: '{name}' is no name of a file, or stands there twice; it was edited")
        if self.content not in CONTENTS:
            raise UserError(f"{path}: content '{self.content}' is unknown; it was edited")
        if self.feature_dtype not in FEATURE_DTYPES or self.box_convention != BOX_CONVENTION:
            raise UserError(
                f"{path}: feature type '{self.feature_dtype}' or box convention '{self.box_convention}' "
                "is unknown; it was edited"
            )
        found = answer_table_hash(self.answer_table)
        if found != self.answer_table_sha256:
            raise UserError(
                f"{path}: the answer table does not match its hash (expected {self.answer_table_sha256[:12]},"
                f" found {found[:12]}); it was edited, write the shards again"
            )


def answer_table_hash(answers: Sequence[str]) -> str:
    """SHA-256 of an answer table: order and spelling, written as JSON."""
    return hashlib.sha256(json.dumps(list(answers), ensure_ascii=False).encode()).hexdigest()


def _require_keys(kind: type[Manifest] | type[ShardEntry], content: Mapping[str, Any], place: str) -> None:
    expected = {each.name for each in fields(kind)}
    needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    missing, unknown = sorted(needed - set(content)), sorted(set(content) - expected)
    if missing or unknown:
        raise UserError(f"{place} does not match: missing keys {missing}, unknown keys {unknown}")
    for each in fields(kind):
        value, wanted = content.get(each.name), cast(Any, each.type)
        if each.name in content and wanted in _PLAIN and not isinstance(value, wanted):
            raise UserError(f"{place}: '{each.name}' is {value!r}; it was edited, write the shards again")
