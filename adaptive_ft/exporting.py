"""A trained run as a folder that other programs load: a plain Hugging Face model, or an adaptive one.

Both are made from a checkpoint's `adaptive/` folder, which is the same whatever ZeRO stage and number of ranks wrote it
and holds float32 weights, also those of a run in bfloat16.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.errors import UserError
from adaptive_ft.exported import MARK, in_use, mark_of
from adaptive_ft.pretrained import OWN_BASE
from adaptive_ft.saving import Restored
from adaptive_ft.whole_files import no_check, write_whole


def one_decision(restored: Restored) -> str | None:
    """What `merge_and_unload` is told of a run: "global" where the run is evaluated so, else nothing."""
    return "global" if restored.model.config.eval_decisions == "global" else None


def is_mergeable(restored: Restored) -> bool:
    """Whether one set of weights stands for all inputs."""
    return not restored.model.decisions or one_decision(restored) is not None


def export_merged(restored: Restored, destination: Path, check: Callable[[], None] = no_check) -> None:
    """Write a run's model as a plain Hugging Face model, with its tokenizer or image processor: a base model.

    The restored model is spent afterwards. `check` is called when all has been written, at the last moment before the
    destination is there, and prevents it by raising.

    Raises:
        UserError: the destination is in use; or the strategy decides per input and is not evaluated by its global
            decision, so there is no one set of weights.
    """
    with _made_whole(destination, check) as partial:
        merged: PreTrainedModel = restored.model.merge_and_unload(one_decision(restored))
        merged.save_pretrained(partial)
        restored.subject.save(partial, merged)
        write_whole(partial / MARK, json.dumps(mark_of(restored.place.parent)))


def export_adaptive(restored: Restored, destination: Path) -> None:
    """Write a run's model as `AdaptiveModel.save_pretrained` does, with its tokenizer or image processor and answers.

    The base is named, as the run named it; where no name could bring it back, for all or part of it was random, its
    weights go along, and `AdaptiveModel.from_pretrained(None, destination)` finds them.

    Raises:
        UserError: the destination is in use.
    """
    with _made_whole(destination, no_check) as partial:
        shutil.copytree(restored.place, partial)
        if restored.folder.base.is_dir():
            shutil.copytree(restored.folder.base, partial / OWN_BASE)


def check_free(destination: Path) -> None:
    """Refuse a destination where something lies already."""
    if in_use(destination):
        raise UserError(f"'{destination}' is in use: choose a new folder, or remove it first.")


@contextmanager
def _made_whole(destination: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A path beside `destination` that takes its name when everything is in it, and goes when something fails.

    No other process writes to that path: two that export to one place at a time make two folders, and one is refused.
    """
    check_free(destination)
    partial = destination.with_name(f"{destination.name}.unfinished-{uuid.uuid4().hex[:8]}")
    try:
        with told_as_failed(f"'{destination}'", destination.parent):
            yield partial
            check()
            check_free(destination)
            partial.replace(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
