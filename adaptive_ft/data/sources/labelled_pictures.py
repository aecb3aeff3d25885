"""Pictures with one label each: files named by a CSV, or a folder per class.

    CSV      path,label[,split] with a header; paths as seen from the picture folder
    folders  SPLIT/LABEL/picture.jpg below the picture folder, hidden ones left out

Encoded files are taken over byte by byte; PNG and JPEG only.
"""

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.data.pixels import PICTURE_ENDINGS, UNREADABLE, decode_rgb
from adaptive_ft.data.records import ImageRecord, Question, label_question, labelled_picture
from adaptive_ft.data.sources.source_files import files_below, is_hidden
from adaptive_ft.errors import UserError

PATH, LABEL, SPLIT = "path", "label", "split"
_ID_LENGTH, _HASH_LENGTH = 60, 8
_NOT_IN_IDS = re.compile(r"[^0-9A-Za-z_-]+")


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A picture file with its label; `path` as seen from the picture folder, `origin` where both were read."""

    path: str
    label: str
    number: int
    origin: str

    @property
    def image_id(self) -> str:
        """A readable id that differs between paths: the path in the characters of ids, and the start of its hash."""
        told = _NOT_IN_IDS.sub("-", self.path.rpartition(".")[0] or self.path)[-_ID_LENGTH:]
        return f"{told}-{hashlib.sha256(self.path.encode()).hexdigest()[:_HASH_LENGTH]}"

    @property
    def questions(self) -> tuple[Question, ...]:
        """What its label answers."""
        return (label_question(self.number, self.label),)


def list_labelled_files(folder: Path, labels: Path | None, split: str) -> list[LabelledFile]:
    """The pictures of a split: of the CSV `labels`, in its order; without one, of the folders, sorted by path.

    A CSV without a split column holds one split, whatever `split` says.

    Raises:
        UserError: `folder` or its split is not there, or the CSV has a fault; names the CSV's line.
    """
    if not folder.is_dir():
        raise UserError(f"there is no picture folder '{folder}'")
    return _from_folders(folder, split) if labels is None else _from_csv(labels, split)


def read_labelled_file(folder: Path, file: LabelledFile) -> ImageRecord:
    """The record of a picture, which is decoded once, to know that it can be.

    Raises:
        UserError: the file is missing, in another format, or cannot be decoded; names it and where it was listed.
    """
    place = f"{file.origin}: '{folder / file.path}'"
    try:
        content = (folder / file.path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{place} cannot be read ({reason}); correct the path or add the file") from None
    if not content.startswith(tuple(PICTURE_ENDINGS)):
        raise UserError(f"{place} is neither a PNG nor a JPEG file; convert it to one of them")
    try:
        size = decode_rgb(content).size
    except UNREADABLE as error:
        raise UserError(f"{place} is no whole picture ({error}); copy it again or leave it out") from None
    return labelled_picture(file.image_id, file.number, file.label, content, size, file.origin)


def _from_csv(labels: Path, split: str) -> list[LabelledFile]:
    try:
        with labels.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="", strict=True)
            missing = {PATH, LABEL} - set(rows.fieldnames or ())
            if missing:
                raise UserError(
                    f"'{labels}' line 1: the header lacks {' and '.join(sorted(missing))}; it must name the columns"
                    f" {PATH},{LABEL} and may name {SPLIT}{_separator_told(rows.fieldnames or ())}"
                )
            return list(_chosen(labels, rows, split))
    except OSError as error:
        raise UserError(f"cannot read '{labels}': {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{labels}' is no CSV in UTF-8 ({error})") from None


def _separator_told(header: Sequence[str]) -> str:
    """What to do about a table whose columns are not separated by commas."""
    return "; it has semicolons: separate the columns by commas" if any(";" in name for name in header) else ""


def _chosen(labels: Path, rows: "csv.DictReader[str]", split: str) -> Iterator[LabelledFile]:
    """The rows of `split` as files, after a look at every row."""
    lines: dict[str, int] = {}
    splits: dict[str, None] = {}
    for row in rows:
        line = rows.line_num
        place = f"'{labels}' line {line}"
        path, label = row[PATH].strip(), row[LABEL].strip()
        for column in {PATH, LABEL, SPLIT} & set(row):
            if not row[column].strip():
                raise UserError(f"{place}: the {column} is empty")
        if path in lines:
            raise UserError(f"{place}: '{path}' stands in line {lines[path]} already; a picture has one label")
        lines[path] = line
        named = row[SPLIT].strip() if SPLIT in row else split
        splits[named] = None
        if named == split:
            yield LabelledFile(path, label, line, place)
    if split not in splits:
        raise UserError(f"'{labels}' has no row of the split '{split}'; it has {_told(splits)}")


def _from_folders(folder: Path, split: str) -> list[LabelledFile]:
    place = folder / split
    if not place.is_dir():
        found = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)]
        raise UserError(f"the picture folder '{folder}' has no split '{split}'; it has {_told(found)}")
    paths = [path.relative_to(folder) for path in files_below(place)]
    loose = [path for path in paths if len(path.parts) < 3]
    if loose:
        raise UserError(f"'{folder / loose[0]}' lies in no class folder; sort pictures as {split}/LABEL/picture.jpg")
    if not paths:
        raise UserError(f"'{place}' holds no pictures; sort them as {split}/LABEL/picture.jpg")
    return [
        LabelledFile(path.as_posix(), path.parts[1], number, f"folder '{place}'")
        for number, path in enumerate(paths, start=1)
    ]


def _told(names: "Sequence[str] | dict[str, None]") -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
