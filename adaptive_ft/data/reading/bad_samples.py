"""What a stream does about a damaged sample: stop and name it, or leave it out, count it, and stop at a cap.

One object serves all reader threads of a stream.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Protocol

from adaptive_ft.data.bad_cap import BadCap
from adaptive_ft.errors import UserError

logger = logging.getLogger(__name__)


class DamagedSample(UserError):
    """Bytes of one sample are missing or are not those that were written; the message names shard and sample."""


class BadSamples(Protocol):
    """Told of every damaged sample that a reader meets."""

    def met(self, example: int, damage: DamagedSample) -> None:
        """Take note of example number `example`, or raise."""

    @property
    def left_out(self) -> frozenset[int]:
        """The numbers of the examples left out so far, as far as this process knows."""

    def add(self, examples: Iterable[int]) -> None:
        """Take note of examples that other ranks, or an earlier process, have left out; raise if there are too many."""


class StopAtBad:
    """The first damaged sample ends the stream."""

    left_out: frozenset[int] = frozenset()

    def met(self, example: int, damage: DamagedSample) -> None:
        """Raise the damage."""
        raise damage

    def add(self, examples: Iterable[int]) -> None:
        """Nothing: an earlier process may have been told to leave them out."""


class SkipBad:
    """Damaged samples are left out with a warning, as long as they are at most `share` of `num_examples`.

    Each rank counts what it has met and what it has been told of (`add`), so that the cap is one on all ranks together
    whenever they have told each other. Raises UserError for a share that is none.
    """

    def __init__(self, share: float, num_examples: int) -> None:
        self._cap, self._num_examples = BadCap(share, "--data.max_bad_share", "examples"), num_examples
        self._allowed = self._cap.allowed(num_examples)
        self._left_out: set[int] = set()
        self._lock = threading.Lock()

    @property
    def left_out(self) -> frozenset[int]:
        """The numbers of the examples left out so far, as far as this process knows."""
        with self._lock:
            return frozenset(self._left_out)

    def met(self, example: int, damage: DamagedSample) -> None:
        """Count and warn of an example when it is met first; raise once there are too many."""
        with self._lock:
            if example in self._left_out:
                return
            self._left_out.add(example)
            if len(self._left_out) > self._allowed:
                raise self._too_many(f"{damage}. ") from damage
        logger.warning("Left out of training: %s.", damage)

    def add(self, examples: Iterable[int]) -> None:
        """Count these too; raise if there are too many."""
        with self._lock:
            self._left_out.update(examples)
            if len(self._left_out) > self._allowed:
                raise self._too_many("")

    def _too_many(self, told: str) -> UserError:
        return UserError(f"{told}{self._cap.exceeded(len(self._left_out), self._num_examples, 'damaged')}")
