"""What a person sees of many runs: on a terminal one bar, elsewhere a line when something has happened.

How far a run is, its log tells: `train 40/1128 ...`, the line that every run writes where it has no terminal.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tqdm import tqdm

_STEP = re.compile(rb"^\w+ (\d+)/(\d+) ", re.MULTILINE)
_TAIL = 4096
MINUTE = 60.0
ALMOST = 0.95


class RunsProgress:
    """Counts ended runs and estimates the time that is left from the work done since the beginning."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._ended, self._work = title, total, 0, 0.0
        self._began = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=title, unit="run", dynamic_ncols=True, bar_format="{bar:24} {desc}")
            if sys.stderr.isatty()
            else None
        )
        if self._bar is None:
            print(f"{title}: {total} to do", flush=True)
        self.look({})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def look(self, running: Mapping[str, float]) -> None:
        """Those that run, each with the share it has done."""
        self._work = self._ended + sum(running.values())
        if self._bar is not None:
            told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in running.items())
            self._bar.n = self._work
            done = f"{self._title} {self._ended}/{self._total} done{self._time_left()}"
            self._bar.set_description_str(f"{done}; running: {told or 'none'}")

    def ended(self, name: str, outcome: str, running: Mapping[str, float]) -> None:
        """One more has ended, the others go on."""
        self._ended += 1
        self.look(running)
        line = f"{self._title} {self._ended}/{self._total}  {name} {outcome}{self._time_left()}"
        if self._bar is not None:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def _time_left(self) -> str:
        left = seconds_left(time.monotonic() - self._began, self._work, self._total)
        if left is None or self._ended == self._total:
            return ""
        return f"; about {left / MINUTE:.0f} min left" if left >= MINUTE else f"; about {left:.0f} s left"


def seconds_left(seconds: float, work: float, total: int) -> float | None:
    """What the rest takes at the pace so far; None before anything is done."""
    return seconds * (total - work) / work if work > 0 else None


def share_done(log: Path, since: int = 0) -> float:
    """The share of its updates that a run has done, by the last such line of its log; 0 before the first.

    `since` is where in the log this start of the run began, in bytes. After the last update a run is still judged, so
    the share never says that nothing is left.
    """
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(since, file.tell() - _TAIL))
            steps = _STEP.findall(file.read())
    except FileNotFoundError:
        return 0.0
    done, total = map(int, steps[-1]) if steps else (0, 1)
    return min(ALMOST, done / max(1, total))
