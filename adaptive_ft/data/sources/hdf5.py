"""Region features in HDF5 files, in the three layouts that are about; needs the extra `hdf5` (h5py).

Padded: features [I,N,D] and boxes [I,N,4], with num_boxes [I] where images have fewer than N. Packed: features
[R,D], boxes [R,4] and pos_boxes [I,2], the first row of each image and the one behind its last
(bottom-up-attention's adaptive export). Both name their images in image_ids [I], and may tell image_w and
image_h [I]. Grouped: one group an image, called by its name, with the arrays of that image. Shape suffixes: I images
of the file, R regions of all images, N regions of one, D feature size.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_names import image_name
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.region_arrays import BOXES, FEATURES, HEIGHT, NUM_BOXES, WIDTH, name_in, region_record
from adaptive_ft.data.sources.source_files import SourceFile, on_disk
from adaptive_ft.errors import UserError

_IDS = ("image_ids", "image_id", "img_ids", "ids")
_RANGES = "pos_boxes"
# What h5py raises for damage: KeyError where a name is there and what it leads to is not.
_UNREADABLE = (OSError, RuntimeError, KeyError, UnicodeDecodeError)


def read_hdf5(file: SourceFile, sizes: ImageSizes) -> Iterator[ImageRecord]:
    """The images of a file in its own order, one in memory at a time, without questions yet.

    Raises UserError naming file and image: a missing extra, an unknown layout, datasets of different length,
    damage, and what `region_record` refuses.
    """
    path = on_disk(file)
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as opened:
            if name_in(opened, FEATURES) is not None:
                yield from _rows(opened, sizes, path)
            else:
                yield from _groups(opened, sizes, path, h5py)
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read as HDF5 ({error}); copy it again") from None


def _groups(opened: Any, sizes: ImageSizes, path: Path, h5py: ModuleType) -> Iterator[ImageRecord]:
    if not any(isinstance(item, h5py.Group) for item in opened.values()):
        raise UserError(f"{path} has neither a dataset 'features' nor a group for each image; found: {_names(opened)}")
    for name, group in opened.items():
        if isinstance(group, h5py.Group):
            yield region_record(image_name(name), group, sizes, f"{path}, group '{name}'")


def _rows(opened: Any, sizes: ImageSizes, path: Path) -> Iterator[ImageRecord]:
    ids = name_in(opened, _IDS)
    if ids is None:
        raise UserError(
            f"{path} does not name its images (a pickled imgid2idx beside it is not loaded); add a dataset "
            f"'{_IDS[0]}', one name for each row. Found: {_names(opened)}"
        )
    names_I = _image_names(opened, ids, path)
    features = _dataset(opened, _name(opened, FEATURES, path), path, axes=(2, 3))
    boxes = _dataset(opened, _name(opened, BOXES, path), path, axes=(features.ndim,))
    columns = _columns(opened, len(names_I), path)
    ranges_I2 = columns.pop(_RANGES, None)
    if features.ndim == 2 and ranges_I2 is None:
        raise UserError(f"{path}: features are [R, D] of all images together, and '{_RANGES}' [I, 2] is missing")
    if features.ndim == 3:
        ranges_I2 = None
        _check_length(path, features, len(names_I))
        _check_length(path, boxes, len(names_I))
    for row, stored in enumerate(names_I):
        name = stored.decode(errors="replace") if isinstance(stored, bytes) else str(stored)
        origin = f"{path} row {row} (image '{name}')"
        place = row if ranges_I2 is None else _range(ranges_I2[row], min(len(features), len(boxes)), origin)
        arrays = {column: values[row] for column, values in columns.items()}
        arrays |= {"features": features[place], "boxes": boxes[place]}
        yield region_record(image_name(name), arrays, sizes, origin)


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
    if len(shape) not in axes:
        raise UserError(f"{path}: '{name}' has shape {[*shape]}, expected {' or '.join(map(str, axes))} axes")
    return found


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
