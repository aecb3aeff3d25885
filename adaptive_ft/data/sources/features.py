"""Which reader a feature file gets: by the ending of its name, in one table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.hdf5 import read_hdf5
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.lxmert_tsv import read_lxmert_tsv
from adaptive_ft.data.sources.numpy_files import read_npy, read_npz
from adaptive_ft.data.sources.source_files import SourceFile, on_disk, source_files
from adaptive_ft.data.sources.vlbert_json import read_vlbert_json
from adaptive_ft.errors import UserError

Read = Callable[[SourceFile, ImageSizes], Iterator[ImageRecord]]


@dataclass(frozen=True)
class FeatureFormat:
    """A format: how its files end, and the reader of one file, which yields its images one by one."""

    endings: tuple[str, ...]
    read: Read


def _read_tsv(file: SourceFile, sizes: ImageSizes) -> Iterator[ImageRecord]:
    """The TSV tells every size itself."""
    return read_lxmert_tsv(on_disk(file))


def _refuse_pickled(file: SourceFile, sizes: ImageSizes) -> Iterator[ImageRecord]:
    raise UserError(
        f"'{file}' holds pickled Python (LMDB feature files do), which can run any code when it is loaded, so it is "
        "not read; write one .npz an image with its maker's program: np.savez(file, features=..., boxes=..., "
        "image_w=..., image_h=...)"
    )


FORMATS = (
    FeatureFormat((".tsv", ".tsv.gz"), _read_tsv),
    FeatureFormat((".json",), read_vlbert_json),
    FeatureFormat((".npz",), read_npz),
    FeatureFormat((".npy",), read_npy),
    FeatureFormat((".h5", ".hdf5"), read_hdf5),
    FeatureFormat((".lmdb", ".mdb", ".pkl", ".pt", ".pth"), _refuse_pickled),
)
_READABLE = [ending for each in FORMATS if each.read is not _refuse_pickled for ending in each.endings]


def read_features(paths: Iterable[Path], sizes: ImageSizes) -> Iterator[ImageRecord]:
    """The images of all paths in turn, without questions yet, one in memory at a time.

    A path is a file, a folder or a zip (also FILE.zip@/PLACE_INSIDE); files of other endings beside feature files
    are left out. `sizes` serves the formats that do not tell width and height. Raises UserError for a path without
    any feature file, and what the readers raise.
    """
    for path in paths:
        known = 0
        for file in source_files(path):
            found = _format_of(file.name)
            if found is not None:
                known += 1
                yield from found.read(file, sizes)
        if not known:
            raise UserError(
                f"no region features at '{path}': a file, or those in a folder or zip, must end in "
                f"{', '.join(_READABLE)}"
            )


def _format_of(name: str) -> FeatureFormat | None:
    return next((each for each in FORMATS if name.lower().endswith(each.endings)), None)
