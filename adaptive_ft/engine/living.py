"""Two runs in one folder at a time: refused where the first one is known to be alive.

This is a courtesy that saves a mistake; what keeps the folder whole in any case is the generation number. So it only
refuses on proof, and never a job that its batch system has started again.

    runs/NAME/alive    who is at it, as JSON: from the opening of the folder on, touched every few seconds, removed
                       when the run leaves
"""

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.engine.generation import Generation
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

ALIVE = "alive"
BEAT_SECONDS = 5.0
# A sign of life this old, by whatever clocks, is not worth waiting for another one.
STALE_SECONDS = 600.0
DEAD_STATES = ("Z", "X")


def refuse_second_run(folder: Path) -> None:
    """Refuse to start in a folder where a run is alive (rank 0 only).

    On this machine its process is looked up. On another one its next sign of life is waited for, 3 beats at most and
    only where the last one is recent. A requeued job is never refused.

    Raises:
        UserError: names the process and the machine.
    """
    path = folder / ALIVE
    try:
        holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    own = identity()
    requeued = holder["job"] is not None and holder["job"] == own["job"] and holder["restart"] != own["restart"]
    if requeued or (holder["machine"], holder["process"], holder["began"]) == _process(own):
        return
    here = holder["machine"] is not None and holder["machine"] == own["machine"]
    if process_began(holder["process"]) == holder["began"] if here else _beats(path):
        raise UserError(
            f"A run is alive in '{folder}': process {holder['process']} on {holder['host']}. End it or wait"
            " for its end, or choose another --name; one run at a time can write there."
        )


def write_sign(generation: Generation) -> None:
    """Be seen in the folder of a run: the first sign of life of the start that has just taken it over."""
    path = generation.folder / ALIVE
    with told_as_failed(f"'{path}'", generation.folder):
        write_whole(path, json.dumps(identity()), generation.check)


class SignOfLife:
    """Renews the sign of one start of a run every few seconds, from `show` or `with` to `leave` or its end.

    generation: that start; None for ranks that show no sign.
    """

    def __init__(self, generation: Generation | None) -> None:
        self._generation = generation
        self._leaving = threading.Event()
        self._beating: threading.Thread | None = None

    def show(self) -> None:
        """Write the sign and renew it from now on; nothing where that is done already."""
        if self._generation is None or self._beating is not None:
            return
        write_sign(self._generation)
        self._leaving.clear()
        words = (self._generation, self._leaving)
        self._beating = threading.Thread(target=_beat, args=words, name="sign-of-life", daemon=True)
        self._beating.start()

    def leave(self) -> None:
        """Remove the sign, unless another start has taken the folder over."""
        if self._generation is None or self._beating is None:
            return
        self._leaving.set()
        self._beating.join()
        self._beating = None
        with suppress(UserError, OSError):
            self._generation.check()
            (self._generation.folder / ALIVE).unlink()

    def __enter__(self) -> Self:
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def identity() -> dict[str, Any]:
    """This process, its machine (the running kernel and its process numbers; None where neither is told), its job."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = None
    return {
        "host": socket.gethostname(),
        "machine": machine,
        "process": os.getpid(),
        "began": process_began(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def process_began(process: int) -> str | None:
    """When a process of this machine began, in ticks since the boot; None for one that is not there or has ended."""
    try:
        # The name, in parentheses, may hold anything.
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in DEAD_STATES else words[19]


def _process(who: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return who["machine"], who["process"], who["began"]


def _beat(generation: Generation, leaving: threading.Event) -> None:
    while not leaving.wait(BEAT_SECONDS):
        with suppress(UserError, OSError):
            generation.check()  # a run that was taken over must not pass for the new one
            os.utime(generation.folder / ALIVE)


def _beats(path: Path) -> bool:
    """Whether a new sign of life is seen coming."""
    try:
        last = path.stat().st_mtime
        if time.time() - last > STALE_SECONDS:
            return False
        deadline = time.monotonic() + 3 * BEAT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if path.stat().st_mtime != last:
                return True
    except FileNotFoundError:
        pass
    return False
