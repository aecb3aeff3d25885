"""What a stream does about a damaged sample: stop and name it, or leave it out, count it, and stop at a cap.

One object serves all reader threads of a stream.
"""

import logging
import threading
from typing import Protocol

from adaptive_ft.errors import UserError

logger = logging.getLogger(__name__)


class DamagedSample(UserError):
    """Bytes of one sample are missing or are not those that were written; the message names shard and sample."""


class BadSamples(Protocol):
    """Told of every damaged sample that a reader meets."""

    def met(self, example: int, damage: DamagedSample) -> None:
        """Take note of example number `example`, or raise."""

    @property
    def skipped(self) -> int:
        """Examples left out so far, each counted once."""


class StopAtBad:
    """The first damaged sample ends the stream."""

    skipped = 0

    def met(self, example: int, damage: DamagedSample) -> None:
        """Raise the damage."""
        raise damage


class SkipBad:
    """Damaged samples are left out with a warning, as long as they are at most `share` of `num_examples`.

    Raises UserError for a share that is none.
    """

    def __init__(self, share: float, num_examples: int) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"--data.max_bad_share is {share}; it is a share of the examples, from 0 to 1.")
        self._share, self._num_examples = share, num_examples
        self._met: set[int] = set()
        self._lock = threading.Lock()

    @property
    def skipped(self) -> int:
        """Examples left out so far, each counted once."""
        return len(self._met)

    def met(self, example: int, damage: DamagedSample) -> None:
        """Count and warn of an example when it is met first; raise once there are too many."""
        with self._lock:
            if example in self._met:
                return
            if len(self._met) + 1 > self._share * self._num_examples:
                raise UserError(
                    f"{damage}. {len(self._met) + 1} of {self._num_examples} examples are damaged, and"
                    f" --data.max_bad_share {self._share:g} allows no more than"
                    f" {int(self._share * self._num_examples)} to be left out."
                ) from damage
            self._met.add(example)
        logger.warning("Left out of training: %s.", damage)
