"""Programs side by side, each in a process of its own with its words in a log; none outlives who started it.

A process per run: its peak memory is its own, a crash ends no other run, and it is what a person would have started.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adaptive_ft.comparing.progress import RunsProgress, share_done

LOOK_SECONDS = 0.5
PARTING_SECONDS = 120.0
"""A run that is asked to stop still saves a checkpoint."""
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Job:
    """A program with its words, `ranks` times side by side; what it says goes to the end of `log`."""

    name: str
    words: tuple[str, ...]
    log: Path
    ranks: int = 1

    @property
    def command(self) -> list[str]:
        """As a person would start it."""
        if self.ranks == 1:
            return [sys.executable, *self.words]
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks))
        return [sys.executable, *launcher, *self.words]


@dataclass(frozen=True)
class Failed:
    """A job that did not end well."""

    job: Job
    code: int
    reason: str

    def __str__(self) -> str:
        """One sentence with the reason that its log gives."""
        return f"{self.job.name} ended with exit code {self.code}{self.reason} (log: {self.job.log})."


class _Running:
    """A job that has been started."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            self._log_began = log.tell()
            # A session of its own: Ctrl-C reaches us alone, and we ask each job to stop once.
            self.process = subprocess.Popen(
                job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(environment),
                start_new_session=True,
            )  # fmt: skip
        self.job = job
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._began

    @property
    def share(self) -> float:
        """Of its updates, as its log tells."""
        return share_done(self.job.log, self._log_began)

    def failed(self, code: int) -> Failed:
        """With the last sentence of an error in its log, or the last line."""
        with self.job.log.open("rb") as log:
            log.seek(self._log_began)
            text = log.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error")] or lines
        return Failed(self.job, code, f": {told[-1].rstrip('.')}" if told else "")


def run_jobs(jobs: Sequence[Job], at_once: int, title: str) -> list[Failed]:
    """Run all jobs, `at_once` at a time in their order; those that failed.

    Whatever ends this function early, as Ctrl-C, asks the running ones to stop and waits until they have saved.
    """
    if not jobs:
        return []
    waiting, running, failed = list(jobs), dict[str, _Running](), list[Failed]()
    environment = environment_of_jobs(at_once * max(job.ranks for job in jobs))
    try:
        with RunsProgress(title, len(jobs)) as progress:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[job.name] = _Running(job, environment)
                time.sleep(LOOK_SECONDS)
                for name, one in list(running.items()):
                    if (code := one.process.poll()) is None:
                        continue
                    del running[name]
                    failed += [one.failed(code)] if code else []
                    outcome = f"FAILED with exit code {code}" if code else f"done in {one.seconds:.0f} s"
                    progress.ended(name, outcome, _shares(running))
                progress.look(_shares(running))
    finally:
        _stop([one.process for one in running.values()])
    return failed


def environment_of_jobs(processes: int, own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Ours without a launcher's words in it; the cores are shared out among the processes unless a person has."""
    kept = {name: value for name, value in own.items() if name not in LAUNCHER_NAMES}
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {"OMP_NUM_THREADS": str(threads), **kept, "TOKENIZERS_PARALLELISM": "false"}


def _shares(running: Mapping[str, _Running]) -> dict[str, float]:
    return {name: one.share for name, one in running.items()}


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask all to stop, wait for them, end those that do not; asked a second time, end them at once."""
    patience = time.monotonic() + PARTING_SECONDS
    try:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, patience - time.monotonic()))
    finally:
        living = [process for process in processes if process.poll() is None]
        for process in living:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its ranks, where a launcher started them
        for process in living:
            process.wait()
