"""Which reader a feature file gets: by the ending of its name, in one table.

Listing tells the images and decodes nothing; reading happens wherever the numbers are needed.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.hdf5 import Hdf5
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.lxmert_tsv import LxmertTsv
from adaptive_ft.data.sources.numpy_files import Npy, Npz
from adaptive_ft.data.sources.source_files import SourceFile, source_files
from adaptive_ft.data.sources.unread import FeatureFile, UnreadImage
from adaptive_ft.data.sources.vlbert_json import VlbertJson
from adaptive_ft.errors import UserError


@dataclass(frozen=True)
class FeatureFormat:
    """A format: how its files end, and what opens one."""

    endings: tuple[str, ...]
    open: Callable[[SourceFile, ImageSizes], FeatureFile]


def _refuse_pickled(file: SourceFile, sizes: ImageSizes) -> FeatureFile:
    raise UserError(
        f"'{file}' holds pickled Python (LMDB feature files do), which can run any code when it is loaded, so it is "
        "not read; write one .npz an image with its maker's program: np.savez(file, features=..., boxes=..., "
        "image_w=..., image_h=...)"
    )


FORMATS = (
    FeatureFormat((".tsv", ".tsv.gz"), LxmertTsv),
    FeatureFormat((".json",), VlbertJson),
    FeatureFormat((".npz",), Npz),
    FeatureFormat((".npy",), Npy),
    FeatureFormat((".h5", ".hdf5"), Hdf5),
    FeatureFormat((".lmdb", ".mdb", ".pkl", ".pt", ".pth"), _refuse_pickled),
)
_READABLE = [ending for each in FORMATS if each.open is not _refuse_pickled for ending in each.endings]


def list_features(paths: Iterable[Path]) -> Iterator[UnreadImage]:
    """The images of all paths in turn, none of them read yet.

    A path is a file, a folder or a zip (also FILE.zip@/PLACE_INSIDE); files of other endings beside feature files
    are left out. Raises UserError for a path without any feature file, and for files that cannot be opened.
    """
    for path in paths:
        known = 0
        for file in source_files(path):
            found = _format_of(file.name)
            if found is not None:
                known += 1
                outside, inside = _named(file)
                with closing(found.open(file, ImageSizes())) as opened:
                    for name, place, origin in opened.images():
                        yield UnreadImage(name, outside, inside, place, origin)
        if not known:
            raise UserError(
                f"no region features at '{path}': a file, or those in a folder or zip, must end in "
                f"{', '.join(_READABLE)}"
            )


class FeatureReader:
    """Reads listed images, in any process; the file and the zip of the image before stay open.

    `sizes` serves the formats that do not tell width and height.
    """

    def __init__(self, sizes: ImageSizes) -> None:
        self._sizes = sizes
        self._file: tuple[tuple[Path, str], FeatureFile] | None = None
        self._archive: tuple[Path, zipfile.ZipFile] | None = None

    def __call__(self, image: UnreadImage) -> ImageRecord:
        """The image under the name and with the questions that it was given; UserError naming its origin."""
        record = self._opened(image.file, image.inside).read(image.place, image.origin)
        return replace(record, image_id=image.image_id, questions=image.questions)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process files are opened anew."""
        return FeatureReader, (self._sizes,)

    def _opened(self, outside: Path, inside: str) -> FeatureFile:
        if self._file is None or self._file[0] != (outside, inside):
            if self._file is not None:
                self._file[1].close()
                self._file = None
            file = zipfile.Path(self._zip(outside), inside) if inside else outside
            found = _format_of(file.name)
            assert found is not None, f"'{file}' was listed"
            self._file = (outside, inside), found.open(file, self._sizes)
        return self._file[1]

    def _zip(self, path: Path) -> zipfile.ZipFile:
        """The archive, whose table of contents takes a while to read where it holds a data set."""
        if self._archive is None or self._archive[0] != path:
            try:
                self._archive = path, zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"'{path}' is no whole zip ({error}); copy it again") from None
        return self._archive[1]


def _named(file: SourceFile) -> tuple[Path, str]:
    """The file on the disk, and the name inside it if it is a zip."""
    return (file, "") if isinstance(file, Path) else (Path(str(file.root.filename)), file.at)


def _format_of(name: str) -> FeatureFormat | None:
    return next((each for each in FORMATS if name.lower().endswith(each.endings)), None)
