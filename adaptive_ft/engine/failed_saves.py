"""A save that fails, mostly for want of room, ends on all ranks in one sentence; the one before stays the newest.

DeepSpeed has barriers behind its writing: a rank that raised there would leave the others waiting for it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from adaptive_ft.engine.failed_writes import is_failed_write, told_as_failed


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


def told_as_failed_save(place: Path) -> AbstractContextManager[None]:
    """Inside, a failed write is raised as `FailedWrite`, told of the checkpoint.

    place: the folder of the checkpoint that was being written, under whatever name.
    """
    name = f"Checkpoint '{place.with_suffix('')}'"
    return told_as_failed(name, place.parent, " The one before it stays the newest.")
