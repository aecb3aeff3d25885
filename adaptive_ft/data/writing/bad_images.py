"""What a conversion does about a bad image of its source: stop and name it, or leave it out, count it, stop at a cap.

Bad is an image that cannot be read, or whose numbers a shard must not hold: NaN, a box outside its picture, regions of
another size than the images before.
"""

import logging
from typing import Protocol

from adaptive_ft.data.bad_cap import BadCap
from adaptive_ft.errors import UserError

logger = logging.getLogger(__name__)


class BadImages(Protocol):
    """Told of every bad image, in the order of the source."""

    @property
    def left_out(self) -> int:
        """Images left out so far."""

    def met(self, told: str) -> None:
        """Take note of an image that a sentence names, or raise UserError."""

    def finish(self, images: int) -> None:
        """Judge the whole: `images` is the number of all, good and bad."""


class StopAtBadImage:
    """The first bad image ends the conversion."""

    left_out = 0

    def met(self, told: str) -> None:
        """Raise what is told."""
        raise UserError(told)

    def finish(self, images: int) -> None:
        """Nothing was left out."""


class LeaveOutBadImages:
    """Bad images are left out with a warning, as long as they are at most `share` of all.

    `most_images` is what the source can have at most, so that too many end the conversion at once. Raises UserError for
    a share that is none.
    """

    def __init__(self, share: float, most_images: int) -> None:
        self._cap, self._most_images = BadCap(share, "--max_bad_share", "images"), most_images
        self.left_out = 0

    def met(self, told: str) -> None:
        """Count and warn; raise once there are too many even if all that are to come are good."""
        if self.left_out + 1 > self._cap.allowed(self._most_images):
            raise self._too_many(self.left_out + 1, self._most_images, told)
        self.left_out += 1
        logger.warning("Left out of the shards: %s.", told)

    def finish(self, images: int) -> None:
        """Raise if too many of the images that were there were bad."""
        if self.left_out > self._cap.allowed(images):
            raise self._too_many(self.left_out, images, "the warnings above name them")

    def _too_many(self, bad: int, images: int, told: str) -> UserError:
        return UserError(f"{told}. {self._cap.exceeded(bad, images, 'bad')}")
