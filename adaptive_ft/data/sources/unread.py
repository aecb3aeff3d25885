"""Images that are known by name and place alone: what is decided before any number is decoded, and by which process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from adaptive_ft.data.records import ImageRecord, Question

Place: TypeAlias = int | str | tuple[int, int] | None
"""Where in its file an image lies, in the terms of the file's format."""


@dataclass(frozen=True, slots=True)
class UnreadImage:
    """An image of a feature file; small, so that it may travel to another process, which reads it there.

    `file` is a path, or a zip, where the image is in the member `inside`. `origin` serves messages, as in ImageRecord.
    """

    image_id: str
    file: Path
    inside: str
    place: Place
    origin: str
    questions: tuple[Question, ...] = ()


class FeatureFile(Protocol):
    """An opened feature file of some format, which tells its images and reads those asked for."""

    def images(self) -> Iterator[tuple[str, Place, str]]:
        """(name, place, origin) of every image in the order of the file, found without decoding it."""

    def read(self, place: Place, origin: str) -> ImageRecord:
        """The image there, without questions; UserError naming `origin` for damage and what does not fit."""

    def close(self) -> None:
        """Let go of the file."""
