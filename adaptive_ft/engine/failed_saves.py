"""A save that fails, mostly for want of room, ends on all ranks in one sentence; the one before stays the newest.

DeepSpeed has barriers behind its writing: a rank that raised there would leave the others waiting for it.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptive_ft.errors import UserError

# How those libraries tell of a failed write that raise no OSError: torch, safetensors, tokenizers.
TELLING = ("PytorchStreamWriter", "inline_container", "iostream error", "I/O error", "os error", "write failed")


def is_failed_write(error: Exception) -> bool:
    """Whether `error` says that a file could not be written: no room, a quota, a file system gone or read-only."""
    return isinstance(error, OSError) or any(word in str(error) for word in TELLING)


@contextmanager
def failures_kept(engine: Any) -> Iterator[list[Exception]]:
    """Inside, a DeepSpeed `engine` that cannot write a file of a checkpoint goes on; the list holds what was raised."""
    failures: list[Exception] = []

    def keeping(write: Callable[..., Any]) -> Callable[..., Any]:
        def kept(*words: Any, **named: Any) -> Any:
            try:
                return write(*words, **named)
            except Exception as error:
                if not is_failed_write(error):
                    raise
                failures.append(error)
                return None

        return kept

    writer = engine.checkpoint_engine
    writer.save, engine._copy_recovery_script = keeping(writer.save), keeping(engine._copy_recovery_script)
    try:
        yield failures
    finally:
        del writer.save, engine._copy_recovery_script


@contextmanager
def told_as_failed(place: Path) -> Iterator[None]:
    """Inside, a failed write is raised as `UserError` with the reason of the system.

    place: the folder of the checkpoint that was being written, under whatever name.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_failed_write(error):
            raise
        # torch tells no errno, but what is free tells the reason mostly.
        free = shutil.disk_usage(place.parent).free / 2**20
        reason = getattr(error, "strerror", None) or f"{' '.join(str(error).split())} ({free:.1f} MiB are free there)"
        raise UserError(
            f"Checkpoint '{place.with_suffix('')}' could not be written: {reason}. The one before it stays the newest:"
            " make room, and go on from there with --resume auto."
        ) from error
