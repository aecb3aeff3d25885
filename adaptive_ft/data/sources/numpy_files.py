"""Region features in numpy's files: .npz with all arrays of one image or of several, .npy with the features alone.

Nothing pickled is ever loaded, as that could run whatever code the file's maker put there; members that are not
needed (the pickled `info` of bottom-up-attention exports) stay unread.
"""

import io
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_names import image_name
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.region_arrays import region_record
from adaptive_ft.data.sources.source_files import UNREADABLE_ZIP, SourceFile, beside, read_whole
from adaptive_ft.data.sources.unread import Place
from adaptive_ft.errors import UserError

# numpy reads a header as Python's own reader of numbers does; one that asks for more memory than there is is damaged.
UNREADABLE = (*UNREADABLE_ZIP, ValueError, MemoryError, tokenize.TokenError)
_BOXES_ENDING = "_boxes"


class Npz:
    """The image `<image_id>.npz`, or the images of a file whose arrays are called `<image_id>/<array>`.

    A place is the part of the names before the slash. Raises UserError naming the file for damage and for what is no
    .npz.
    """

    def __init__(self, file: SourceFile, sizes: ImageSizes) -> None:
        self._file, self._sizes = file, sizes
        self._stem = PurePosixPath(file.name).stem
        # Arrays are read one at a time from the disk; only a zip in a zip is held whole.
        content = file if isinstance(file, Path) else io.BytesIO(read_whole(file))
        try:
            loaded = np.load(content, allow_pickle=False)
        except UNREADABLE as error:
            raise UserError(f"{file} is not a readable .npz ({error}); write it again with np.savez") from None
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise UserError(f"{file} is no .npz but a single array; call it .npy")
        self._loaded = loaded
        self._groups: dict[str, list[str]] = {}
        for name in loaded.files:
            self._groups.setdefault(name.rpartition("/")[0], []).append(name)

    def images(self) -> Iterator[tuple[str, Place, str]]:
        """The images by the names of their arrays."""
        for group in self._groups:
            yield image_name(group or self._stem), group, f"{self._file}, '{group}'" if group else str(self._file)

    def read(self, place: Place, origin: str) -> ImageRecord:
        """The image of a group; UserError for damage, pickled arrays and what `region_record` refuses."""
        assert isinstance(place, str), place
        arrays = _Arrays(self._loaded, place, self._groups[place], self._file)
        return region_record(image_name(place or self._stem), arrays, self._sizes, origin)

    def close(self) -> None:
        """Let go of the file."""
        self._loaded.close()


class Npy:
    """The image whose features are `<image_id>.npy` and whose boxes `<image_id>_boxes.npy` beside it."""

    def __init__(self, file: SourceFile, sizes: ImageSizes) -> None:
        self._file, self._sizes = file, sizes
        self._stem = PurePosixPath(file.name).stem

    def images(self) -> Iterator[tuple[str, Place, str]]:
        """The one image, or none in a file of boxes, which are read with their features."""
        if not self._stem.endswith(_BOXES_ENDING):
            yield image_name(self._stem), None, str(self._file)

    def read(self, place: Place, origin: str) -> ImageRecord:
        """The image; UserError naming the file for damage, pickled arrays, missing boxes and what does not fit."""
        boxes = beside(self._file, f"{self._stem}{_BOXES_ENDING}.npy")
        if not boxes.exists():
            raise UserError(
                f"{self._file} holds no boxes, and '{boxes.name}' [N, 4] is not beside it; add it, or write .npz"
            )
        arrays = {"features": _single(self._file), "boxes": _single(boxes)}
        return region_record(image_name(self._stem), arrays, self._sizes, origin)

    def close(self) -> None:
        """Nothing stays open."""


class _Arrays(Mapping[str, NDArray[Any]]):
    """The arrays of one image in an open .npz, each read when it is asked for."""

    def __init__(self, loaded: Any, group: str, names: list[str], file: SourceFile) -> None:
        self._loaded, self._file = loaded, file
        self._names = {name.removeprefix(f"{group}/") if group else name: name for name in names}

    def __getitem__(self, name: str) -> NDArray[Any]:
        stored = self._names[name]
        try:
            return np.asarray(self._loaded[stored])
        except UNREADABLE as error:
            raise _unreadable(f"{self._file}, array '{stored}',", error) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _single(file: SourceFile) -> NDArray[Any]:
    try:
        return np.asarray(np.lib.format.read_array(io.BytesIO(read_whole(file)), allow_pickle=False))
    except UNREADABLE as error:
        raise _unreadable(str(file), error) from None


def _unreadable(what: str, error: Exception) -> UserError:
    if "allow_pickle" in str(error):
        return UserError(
            f"{what} is pickled Python, which can run any code when it is loaded; save plain numbers instead: "
            "np.savez(file, features=..., boxes=..., image_w=..., image_h=...)"
        )
    return UserError(f"{what} cannot be read ({error}); write it again")
