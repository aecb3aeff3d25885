"""Width and height of images whose feature files do not tell them, from the JSON files in which data sets list them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from adaptive_ft.data.sources.fields import whole_number
from adaptive_ft.data.sources.image_names import image_name, image_number
from adaptive_ft.data.sources.opening import read_json
from adaptive_ft.errors import UserError

Size = tuple[int, int]


class ImageSizes:
    """(width, height) by image: of the picture in whose pixels the boxes are measured."""

    def __init__(self, sizes: Iterable[tuple[str, Size]] = ()) -> None:
        self._by_name = dict(sizes)
        numbered = ((image_number(name), size) for name, size in self._by_name.items())
        self._by_number = {number: size for number, size in numbered if number is not None}

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """The sizes in JSON files, plain or gzip: COCO's annotations ({"images": [{file_name, width, height}]}) or
        a table {image: {width, height}} as GQA's scene graphs.

        Raises UserError naming file and image for another form.
        """
        return cls(named for path in paths for named in _entries(path))

    def of(self, image_id: str) -> Size | None:
        """The size of an image by its name, else by its COCO number; None if no file tells it."""
        number = image_number(image_id)
        return self._by_name.get(image_id) or (None if number is None else self._by_number.get(number))


def _entries(path: Path) -> Iterator[tuple[str, Size]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} tells no image sizes; give COCO's annotations or a table {{image: {{width, height}}}}")
    images = content.get("images")
    listed = ((None, image) for image in images) if isinstance(images, list) else content.items()
    for key, image in listed:
        try:
            yield image_name(str(image["file_name"] if key is None else key)), _size(image)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, image {str(key or image)[:60]}: no width and height ({error!r})") from None


def _size(image: dict[str, Any]) -> Size:
    return whole_number(image, "width"), whole_number(image, "height")
