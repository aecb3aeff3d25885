"""Region features in HDF5 files, in the three layouts that are about; needs the extra `hdf5` (h5py).

Padded: features [I,N,D] and boxes [I,N,4], with num_boxes [I] where images have fewer than N. Packed: features
[R,D], boxes [R,4] and pos_boxes [I,2], the first row of each image and the one behind its last
(bottom-up-attention's adaptive export). Both name their images in image_ids [I], and may tell image_w and
image_h [I]. Grouped: one group an image, called by its name, with the arrays of that image. Shape suffixes: I images
of the file, R regions of all images, N regions of one, D feature size.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_names import image_name
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.region_arrays import BOXES, FEATURES, HEIGHT, NUM_BOXES, WIDTH, name_in, region_record
from adaptive_ft.data.sources.source_files import SourceFile, on_disk
from adaptive_ft.data.sources.unread import Place
from adaptive_ft.errors import UserError

_IDS = ("image_ids", "image_id", "img_ids", "ids")
_RANGES = "pos_boxes"
_MOST_PACKED = 1032  # deflate makes no more bytes of one
# What h5py raises for damage: KeyError where a name is there and what it leads to is not.
_UNREADABLE = (OSError, RuntimeError, KeyError, UnicodeDecodeError)


class Hdf5:
    """A file in any of the layouts; a place is a row, or the name of a group.

    Raises UserError naming file and image: a missing extra, an unknown layout, datasets of different length,
    damage, and what `region_record` refuses.
    """

    def __init__(self, file: SourceFile, sizes: ImageSizes) -> None:
        self._path = on_disk(file)
        h5py = _h5py()
        with _told(self._path):
            self._opened = h5py.File(self._path, "r")
            rows = name_in(self._opened, FEATURES) is not None
            self._layout = (
                _Rows(self._opened, sizes, self._path) if rows else _Groups(self._opened, sizes, self._path, h5py)
            )

    def images(self) -> Iterator[tuple[str, Place, str]]:
        """The images in the file's own order."""
        with _told(self._path):
            yield from self._layout.images()

    def read(self, place: Place, origin: str) -> ImageRecord:
        """The image in a row or group, without questions."""
        with _told(self._path):
            return self._layout.read(place, origin)

    def close(self) -> None:
        """Let go of the file."""
        self._opened.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read as HDF5 ({error}); copy it again") from None


class _Groups:
    def __init__(self, opened: Any, sizes: ImageSizes, path: Path, h5py: ModuleType) -> None:
        self._opened, self._sizes, self._path = opened, sizes, path
        self._group: type = h5py.Group
        if not any(isinstance(item, self._group) for item in opened.values()):
            raise UserError(
                f"{path} has neither a dataset 'features' nor a group for each image; found: {_names(opened)}"
            )

    def images(self) -> Iterator[tuple[str, Place, str]]:
        for name, group in self._opened.items():
            if isinstance(group, self._group):
                if not isinstance(name, str):
                    raise UserError(f"{self._path}: the group {name!r} has a name that is not UTF-8; rename it")
                yield image_name(name), name, f"{self._path}, group '{name}'"

    def read(self, place: Place, origin: str) -> ImageRecord:
        return region_record(image_name(str(place)), self._opened[place], self._sizes, origin)


class _Rows:
    def __init__(self, opened: Any, sizes: ImageSizes, path: Path) -> None:
        ids = name_in(opened, _IDS)
        if ids is None:
            raise UserError(
                f"{path} does not name its images (a pickled imgid2idx beside it is not loaded); add a dataset "
                f"'{_IDS[0]}', one name for each row. Found: {_names(opened)}"
            )
        self._sizes, self._path = sizes, path
        self._names_I = _image_names(opened, ids, path)
        self._features = _dataset(opened, _name(opened, FEATURES, path), path, axes=(2, 3))
        self._boxes = _dataset(opened, _name(opened, BOXES, path), path, axes=(self._features.ndim,))
        self._columns = _columns(opened, len(self._names_I), path)
        self._ranges_I2 = self._columns.pop(_RANGES, None)
        if self._features.ndim == 2 and self._ranges_I2 is None:
            raise UserError(f"{path}: features are [R, D] of all images together, and '{_RANGES}' [I, 2] is missing")
        if self._features.ndim == 3:
            self._ranges_I2 = None
            _check_length(path, self._features, len(self._names_I))
            _check_length(path, self._boxes, len(self._names_I))

    def images(self) -> Iterator[tuple[str, Place, str]]:
        for row in range(len(self._names_I)):
            name = self._stored_name(row)
            yield image_name(name), row, f"{self._path} row {row} (image '{name}')"

    def read(self, place: Place, origin: str) -> ImageRecord:
        assert isinstance(place, int), place
        rows: int | slice = place
        if self._ranges_I2 is not None:
            rows = _range(self._ranges_I2[place], min(len(self._features), len(self._boxes)), origin)
        arrays = {column: values[place] for column, values in self._columns.items()}
        arrays |= {"features": self._features[rows], "boxes": self._boxes[rows]}
        return region_record(image_name(self._stored_name(place)), arrays, self._sizes, origin)

    def _stored_name(self, row: int) -> str:
        stored = self._names_I[row]
        return stored.decode(errors="replace") if isinstance(stored, bytes) else str(stored)


def _image_names(opened: Any, ids: str, path: Path) -> Any:
    """The names as they are stored, texts or numbers: [I], also of a dataset [I,1]."""
    stored = _dataset(opened, ids, path, axes=(1, 2))[()]
    if stored.size != len(stored):
        raise UserError(f"{path}: '{ids}' has shape {[*stored.shape]}, expected one name for each image")
    if stored.dtype.kind not in "iuSO":
        raise UserError(f"{path}: '{ids}' holds {stored.dtype}, expected texts or whole numbers")
    return stored.reshape(-1)


def _columns(opened: Any, images: int, path: Path) -> dict[str, Any]:
    """What the file tells of every image in one number or two, read whole: [I] or [I,2] each."""
    found = {}
    for name in (_RANGES, *NUM_BOXES, *WIDTH, *HEIGHT):
        if name in opened:
            dataset = _dataset(opened, name, path, axes=(1, 2))
            _check_length(path, dataset, images)
            found[name] = dataset[()]
    ranges = found.get(_RANGES)
    if ranges is not None and (ranges.shape != (images, 2) or ranges.dtype.kind not in "iu"):
        raise UserError(
            f"{path}: '{_RANGES}' is {ranges.dtype} {[*ranges.shape]}, expected whole numbers [{images}, 2], the first"
            " row of each image and the one behind its last"
        )
    return found


def _range(first_and_end: Any, rows: int, origin: str) -> slice:
    first, end = map(int, first_and_end)
    if not 0 <= first < end <= rows:
        raise UserError(f"{origin}: '{_RANGES}' says rows {first} to {end}, the file has {rows}")
    return slice(first, end)


def _name(opened: Any, names: tuple[str, ...], path: Path) -> str:
    name = name_in(opened, names)
    if name is None:
        raise UserError(f"{path} has no dataset '{names[0]}' (or {', '.join(names[1:])}); found: {_names(opened)}")
    return name


def _dataset(opened: Any, name: str, path: Path, axes: tuple[int, ...]) -> Any:
    """The dataset of this name, with one of these numbers of axes."""
    found = opened[name]
    shape = getattr(found, "shape", None)
    if shape is None:
        told = "empty" if hasattr(found, "dtype") else "a group"
        raise UserError(f"{path}: '{name}' is {told}, expected a dataset of numbers or names")
    _check_size(found, name, path)
    if len(shape) not in axes:
        raise UserError(f"{path}: '{name}' has shape {[*shape]}, expected {' or '.join(map(str, axes))} axes")
    return found


def _check_size(dataset: Any, name: str, path: Path) -> None:
    """Refuse what cannot lie in the file, before memory is asked for it."""
    packed = 1 if dataset.chunks is None else _MOST_PACKED
    stored = os.path.getsize(path)
    if math.prod(dataset.shape) * dataset.dtype.itemsize > packed * stored:
        raise UserError(
            f"{path}: '{name}' has shape {[*dataset.shape]}, more than {stored} bytes can hold; copy the file again"
        )


def _check_length(path: Path, dataset: Any, images: int) -> None:
    if len(dataset) != images:
        raise UserError(f"{path}: dataset '{dataset.name}' has shape {[*dataset.shape]}, expected {images} rows")


def _names(opened: Mapping[str, Any]) -> str:
    return ", ".join(map(str, list(opened)[:8])) or "nothing"


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 features need h5py; install it with: pip install 'adaptive-ft[hdf5]'") from None
    return h5py
