"""LXMERT's region features: one image per line, tab separated, arrays in base64, no header.

Columns: img_id img_h img_w objects_id(int64) objects_conf(float32) attrs_id(int64) attrs_conf(float32)
num_boxes boxes(float32 N,4 xyxy pixels) features(float32 N,D). Detected classes are not used by fine-tuning
and left out. Shape suffixes: N regions, D feature size, 4 = x1 y1 x2 y2.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.base64_numbers import decode_regions
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.opening import open_source
from adaptive_ft.data.sources.source_files import SourceFile, on_disk
from adaptive_ft.data.sources.unread import Place
from adaptive_ft.errors import UserError

_COLUMNS = 10
_ID, _HEIGHT, _WIDTH, _NUM_BOXES, _BOXES, _FEATURES = 0, 1, 2, 7, 8, 9
_LISTED_AT_ONCE = 1 << 18  # lines of 36 x 2048 take 0.4 MB: a larger buffer than the usual finds them sooner
_UNREADABLE = (EOFError, OSError, zlib.error)


class LxmertTsv:
    """A TSV, plain or gzip, one line in memory at a time; it tells every size itself.

    A place is (first byte, number of bytes) of a line. In a gzip file later lines are reached by unpacking those
    before, so every process that reads one unpacks all of it once. Source: airsplay/lxmert, src/utils.py.
    """

    def __init__(self, file: SourceFile, sizes: ImageSizes) -> None:
        self._path = on_disk(file)
        self._file: BinaryIO | None = None

    def images(self) -> Iterator[tuple[str, Place, str]]:
        """Every line by its first column; UserError where a gzip file is cut or damaged."""
        with open_source(self._path, _LISTED_AT_ONCE) as file:
            number = start = 0
            try:
                for number, line in enumerate(file, start=1):
                    name = line[: line.find(b"\t")].decode(errors="replace")
                    yield name, (start, len(line)), f"{self._path} line {number}"
                    start += len(line)
            except _UNREADABLE as error:
                raise UserError(
                    f"{self._path} is cut or damaged after line {number} ({error}); copy it again"
                ) from None

    def read(self, place: Place, origin: str) -> ImageRecord:
        """Boxes [N,4] and features [N,D] float32 of a line.

        Raises UserError naming file and line for a wrong number of columns, bad base64 or arrays whose length does
        not fit.
        """
        assert isinstance(place, tuple), place
        start, size = place
        self._file = self._file or open_source(self._path)
        try:
            self._file.seek(start)
            return _parse(self._file.read(size), origin)
        except ValueError as error:
            raise UserError(f"{origin}: {error}") from None
        except _UNREADABLE as error:
            raise UserError(f"{origin} cannot be read ({error}); copy the file again") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def _parse(line: bytes, origin: str) -> ImageRecord:
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) != _COLUMNS:
        raise ValueError(f"expected {_COLUMNS} tab-separated columns, found {len(columns)}; the line was cut or joined")
    num_boxes = _whole_number(columns[_NUM_BOXES], "num_boxes")
    boxes, features = decode_regions(num_boxes, columns[_BOXES], columns[_FEATURES])
    return ImageRecord(
        image_id=columns[_ID].decode(),
        width=_whole_number(columns[_WIDTH], "img_w"),
        height=_whole_number(columns[_HEIGHT], "img_h"),
        boxes=boxes,
        features=features,
        questions=(),
        origin=origin,
    )


def _whole_number(column: bytes, name: str) -> int:
    if not column.isdigit():
        raise ValueError(f"{name} is '{column[:20].decode(errors='replace')}', expected a whole number")
    return int(column)
