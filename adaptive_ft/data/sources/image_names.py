"""One image, several names: COCO's number, the number with zeros, its file name; questions decide which one counts."""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.unread import UnreadImage
from adaptive_ft.errors import UserError

_COCO_NAME = re.compile(r"COCO_[a-zA-Z0-9-]+_(\d{12})")
Image = TypeVar("Image", ImageRecord, UnreadImage)
_PICTURE_ENDING = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)


def image_name(text: str) -> str:
    """An image's name without the ending of a picture file."""
    return _PICTURE_ENDING.sub("", text)


def image_number(name: str) -> int | None:
    """The number in a bare number or in COCO's `COCO_<split>_<12 digits>`; None for any other name."""
    if _is_bare_number(name):
        return int(name)
    coco = _COCO_NAME.fullmatch(name)
    return int(coco[1]) if coco else None


def named_as_asked(records: Iterable[Image], asked: Collection[str]) -> Iterator[Image]:
    """The images, read or not; one that bears only a number is renamed as `asked` has it, 25 to
    COCO_train2014_000000000025.

    COCO counts all its pictures in one row, so VQA features are often named by the number alone. Raises UserError
    where the number fits two of the names.
    """
    names: dict[int, list[str]] = {}
    for name in asked:
        number = image_number(name)
        if number is not None:
            names.setdefault(number, []).append(name)
    for record in records:
        yield record if record.image_id in asked else _renamed(record, names)


def _is_bare_number(name: str) -> bool:
    return name.isascii() and name.isdigit()  # without isascii "²" is a digit too, and no number


def _renamed(record: Image, names: dict[int, list[str]]) -> Image:
    if not _is_bare_number(record.image_id):
        return record
    fitting = names.get(int(record.image_id), [])
    if len(fitting) > 1:
        raise UserError(
            f"image '{record.image_id}' ({record.origin}) may be {' or '.join(fitting)}: questions are asked about "
            "both; make one shard set of each COCO split"
        )
    return replace(record, image_id=fitting[0]) if fitting else record
