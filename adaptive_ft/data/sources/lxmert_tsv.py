"""LXMERT's region features: one image per line, tab separated, arrays in base64, no header.

Columns: img_id img_h img_w objects_id(int64) objects_conf(float32) attrs_id(int64) attrs_conf(float32)
num_boxes boxes(float32 N,4 xyxy pixels) features(float32 N,D). Detected classes are not used by fine-tuning
and left out. Shape suffixes: N regions, D feature size, 4 = x1 y1 x2 y2.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.base64_numbers import decode_regions
from adaptive_ft.data.sources.opening import open_source
from adaptive_ft.errors import UserError

_COLUMNS = 10
_ID, _HEIGHT, _WIDTH, _NUM_BOXES, _BOXES, _FEATURES = 0, 1, 2, 7, 8, 9


def read_lxmert_tsv(path: Path) -> Iterator[ImageRecord]:
    """Images with boxes [N,4] and features [N,D] float32 and no questions yet, one line in memory at a time.

    Plain or gzip. Raises UserError naming file and line for a wrong number of columns, bad base64 or arrays
    whose length does not fit. Source: airsplay/lxmert, src/utils.py.
    """
    with open_source(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                yield _parse(line, f"{path} line {number}")
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}") from None
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path} is cut or damaged after line {number} ({error}); copy it again") from None


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
