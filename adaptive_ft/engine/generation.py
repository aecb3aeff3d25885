"""The fence around a run folder: each start of a run has a number, and only the newest start may write.

A machine that is cut from the network lives on while its job already trains somewhere else, and a process that was
suspended wakes up a day later. Neither knows. So every start raises the number in `runs/NAME/generation`, and whatever
is about to be written there is preceded by a look whether the number still is the own one.

    runs/NAME/generation    "3 5f0c9a1e": the number, and a word that tells two starts at one moment apart
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

GENERATION = "generation"
# Before each further try of a read that has failed: a file on a network may be stale or away for a moment.
PAUSES = (0.2, 0.5, 1.0, 2.0)


class TakenOver(UserError):
    """The run folder belongs to a newer start of the run; this one must not touch it any more."""

    exit_code = 1


@dataclass(frozen=True)
class Generation:
    """One start of the run in `folder`, told to every rank of it."""

    folder: Path
    number: int
    word: str

    @property
    def own_name(self) -> str:
        """What no other start of any run calls itself: for files that only this one may write into."""
        return f"{self.number}-{self.word}"

    def check(self) -> None:
        """Call it before every write below the folder, on any rank.

        Raises:
            TakenOver: the folder belongs to another start, or is gone.
        """
        number, word = _read(self.folder)
        if (number, word) == (self.number, self.word):
            return
        holder = f"was taken over by generation {number}" if number else "has lost its generation file"
        raise TakenOver(
            f"The run '{self.folder}' {holder}, this process is generation {self.number}: it was probably cut off or"
            " suspended while the run was started again. It stops and leaves the folder as it is."
        )


@contextmanager
def taken_over_told(generation: Generation | None) -> Iterator[None]:
    """Inside, a failure of whatever kind is told as `TakenOver` where the folder is another start's: most failures of
    a rank that was cut off are those of its peers.
    """
    try:
        yield
    except Exception:
        if generation is not None:
            generation.check()
        raise


def next_generation(folder: Path) -> Generation:
    """Take the run folder over: whoever held it cannot write from now on (rank 0 only)."""
    number, _ = _read(folder)
    taken = Generation(folder, number + 1, uuid.uuid4().hex[:8])
    with told_as_failed(f"'{folder / GENERATION}'", folder):
        write_whole(folder / GENERATION, f"{taken.number} {taken.word}\n")
    return taken


def _read(folder: Path) -> tuple[int, str]:
    """Number and word; 0 and nothing where no start has left any."""
    path = folder / GENERATION
    try:
        number, word = _read_patiently(path).split()
        return int(number), word
    except FileNotFoundError:
        return 0, ""
    except OSError as error:
        raise UserError(
            f"'{path}' could not be read: {error.strerror}. Whether the run is still this process's is not known, so it"
            " stops; when the file system is well again, start the run again with --resume auto."
        ) from error
    except ValueError as error:
        raise UserError(f"'{path}' holds no number and word: {error}. Remove it if no run is alive here.") from error


def _read_patiently(path: Path) -> str:
    """The text of a file; what the file system refuses is tried again for some seconds, but not a file that is gone."""
    for pause in PAUSES:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    return path.read_text(encoding="utf-8")
