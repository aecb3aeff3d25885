"""The files a path stands for: one file, those below a folder, or those inside a zip, read where they are."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

from adaptive_ft.errors import UserError

SourceFile: TypeAlias = Path | zipfile.Path
"""A file on the disk or in a zip; its text form is its place as messages name it."""
Place = TypeVar("Place", Path, zipfile.Path)
# RuntimeError, with NotImplementedError below it: packed in a way, or with a password, that zipfile does not know.
UNREADABLE_ZIP = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_INSIDE = "@/"  # VL-BERT's mark between a zip and a place inside it: features.zip@/features


def source_files(path: Path) -> Iterator[SourceFile]:
    """Every file at or below `path`, in the order of names: FILE, FOLDER, FILE.zip, or FILE.zip@/PLACE_INSIDE.

    Hidden files and those macOS adds to zips are left out. Raises UserError if the path or the place inside the
    zip does not exist, or the zip is damaged.
    """
    outside, inside = _outside_and_inside(path)
    if not outside.endswith(".zip"):
        yield from files_below(Path(outside))
        return
    try:
        with zipfile.ZipFile(outside) as archive:
            root = zipfile.Path(archive)
            start = root.joinpath(inside) if inside else root
            if inside and not start.exists():  # the root itself does not count as existing
                raise UserError(f"there is no '{inside}' in '{outside}'")
            yield from files_below(start)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"'{outside}' is no whole zip ({error}); copy it again") from None


def files_on_disk(path: Path) -> Iterator[Path]:
    """The files of the disk that `source_files` reads for `path`: of a zip the zip; UserError as there."""
    return files_below(Path(_outside_and_inside(path)[0]))


def _outside_and_inside(path: Path) -> tuple[str, str]:
    outside, _, inside = (str(path), "", "") if path.exists() else str(path).partition(_INSIDE)
    if not Path(outside).exists():
        raise UserError(f"cannot read '{outside}': no such file or folder")
    return outside, inside


def files_below(place: Place) -> Iterator[Place]:
    """Every file at or below `place` in the order of names, but hidden ones and those macOS adds to zips."""
    if not place.is_dir():
        yield place
        return
    children: Iterator[Place] = place.iterdir()
    for child in sorted(children, key=lambda child: child.name):
        if not is_hidden(child.name):
            yield from files_below(child)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the data: made by an editor or by macOS."""
    return name.startswith(".") or name == "__MACOSX"


def read_whole(file: SourceFile) -> bytes:
    """The bytes of a file; UserError naming it if it is damaged."""
    try:
        return file.read_bytes()
    except UNREADABLE_ZIP as error:
        raise UserError(f"'{file}' cannot be read ({error}); copy it again") from None


def beside(file: SourceFile, name: str) -> SourceFile:
    """The file called `name` in the same folder, or at the same place in the zip."""
    if isinstance(file, Path):
        return file.with_name(name)
    return zipfile.Path(file.root, str(PurePosixPath(file.at).with_name(name)))


def on_disk(file: SourceFile) -> Path:
    """The same file if it lies on the disk; UserError if it lies in a zip, for formats read in pieces."""
    if isinstance(file, Path):
        return file
    raise UserError(f"'{file}' lies in a zip; unpack it first, a file of many images is not read out of a zip")
