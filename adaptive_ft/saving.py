"""What a run leaves behind so that it can go on, be evaluated, or become somebody's base model.

A checkpoint's `adaptive/` folder is enough to answer questions again: what was learned, the answer table, the
tokenizer or image processor; the frozen half is the base model's, proved by a hash.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.build import Run
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.engine.checkpoint import BEST, LATEST, CheckpointFolder
from adaptive_ft.engine.failed_saves import told_as_failed_save
from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import build_base
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.same_run import ADAPTIVE, changed_options, check_same_run, shared_facts
from adaptive_ft.subjects import Subject, restore_subject, subject_facts
from adaptive_ft.tasks.task import Task
from adaptive_ft.whole_files import write_whole

Result = TypeVar("Result")

TASK = "task.json"
LENGTHS = ("max_steps:", "num_train_epochs:", "optim.warmup_steps:", "optim.warmup_ratio:")
"""Options that the schedule of the learning rates follows."""


def save_checkpoint(run: Run, state: dict[str, Any], *, best: bool) -> None:
    """Write a whole checkpoint of all ranks after the current update, then move the pointers (collective).

    Raises:
        UserError: a rank could not write; the checkpoint before is the newest, and what was written is removed.
    """
    checkpoints, ranks = run.folder.checkpoints, run.ranks
    tag = checkpoints.tag(run.engine.updates)
    ranks.together(checkpoints.check)
    try:
        place = _on_disk(run, tag, lambda: checkpoints.begin(tag))
        run.engine.save(place.parent, place.name, state)
        weights = run.engine.gathered_trainable_state()
        _on_disk(run, tag, lambda: _write_adaptive(run, place / ADAPTIVE, weights))
        _on_disk(run, tag, lambda: _declare_whole(run, tag, state["best"], best=best))
    except UserError:
        if ranks.is_main:
            checkpoints.abandon()
        raise


def _on_disk(run: Run, tag: str, write: Callable[[], Result]) -> Result:
    """`write()` on rank 0, while the others wait; what the disk refuses is a `UserError` on every rank."""

    def written() -> Result:
        with told_as_failed_save(run.folder.checkpoints.folder / tag):
            return write()

    return run.watch.on_main("saving", written)


def _write_adaptive(run: Run, place: Path, weights: Mapping[str, Tensor]) -> None:
    """The folder that is enough to answer questions again."""
    parts = run.parts
    parts.model.save_pretrained(place, weights)
    parts.subject.save(place, parts.model.base)
    facts = subject_facts(parts.subject, parts.train_shards)
    write_whole(place / TASK, json.dumps(facts, ensure_ascii=False))


def _declare_whole(run: Run, tag: str, best_so_far: Mapping[str, Any], *, best: bool) -> None:
    """Manifest, name, pointers, and room for the next ones."""
    checkpoints = run.folder.checkpoints
    facts = {"step": run.engine.updates, "best_step": best_so_far.get("step"), **shared_facts(run)}
    # A kill between the two must not leave a newest checkpoint that was the best and is not pointed at.
    checkpoints.finish(tag, facts, (BEST, LATEST) if best else (LATEST,))
    checkpoints.prune(run.config.save_total_limit)


def load_checkpoint(run: Run) -> dict[str, Any] | None:
    """Put the newest whole checkpoint back into the engine; its state, or None when the run starts afresh (collective).

    Raises:
        UserError: the config or the base model no longer fits the checkpoint; nothing has been touched.
    """
    if run.config.resume == "none":
        return None
    checkpoints = run.folder.checkpoints
    tag, passed_over = run.ranks.on_main(lambda: _newest(checkpoints))
    if run.ranks.is_main:
        for sentence in passed_over:
            print(sentence, flush=True)
        print(f"resuming from {tag}" if tag else "nothing to resume from: starting afresh", flush=True)
    if tag is None:
        return None
    run.ranks.on_main(lambda: check_same_run(run, tag))
    changed = changed_options(run.folder, run.config) if run.ranks.is_main else []
    if changed:
        print(f"changed since the last start: {', '.join(changed)}", flush=True)
    if any(option.startswith(LENGTHS) for option in changed):
        print(f"the learning rates follow the schedule of {run.total_updates} updates from here on", flush=True)
    state = _loaded(run, tag)
    return state | {"best": run.ranks.on_main(lambda: _rewind(checkpoints, tag, state))}


def _newest(checkpoints: CheckpointFolder) -> tuple[str | None, list[str]]:
    with told_as_failed(f"'{checkpoints.folder}'", checkpoints.folder):
        checkpoints.settle()
    return checkpoints.newest_whole()


def _loaded(run: Run, tag: str) -> dict[str, Any]:
    """Checkpoint `tag` in the engine, whatever number of ranks wrote it (collective)."""
    checkpoints, here = run.folder.checkpoints, run.ranks.world_size
    written_by = run.ranks.on_main(lambda: checkpoints.read_manifest(tag)["world_size"])
    if written_by == here:
        return run.engine.load(checkpoints.folder, tag)
    if run.ranks.is_main:
        print(f"{tag} was written by {written_by} rank{'s' * (written_by > 1)} and is read by {here}", flush=True)
    return run.engine.load_of_other_ranks(checkpoints, tag)


def _rewind(checkpoints: CheckpointFolder, tag: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder what it was when `tag` had been written: nothing newer, and the pointers of that moment; the best
    score so far whose checkpoint is whole, with its step.
    """
    with told_as_failed(f"'{checkpoints.folder}'", checkpoints.folder):
        checkpoints.forget_after(tag)
        best = _best_left(checkpoints, state)
        pointers = {LATEST: tag}
        if best:
            pointers[BEST] = checkpoints.tag(best["step"])
        elif checkpoints.pointed(BEST):
            pointers[BEST] = tag  # what it names has been passed over or lost; the next epoch's end is better
        for pointer, named in pointers.items():
            if checkpoints.pointed(pointer) != named:
                checkpoints.point(pointer, named)
    return best


def _best_left(checkpoints: CheckpointFolder, state: Mapping[str, Any]) -> dict[str, Any]:
    """The best of `state`, or where its checkpoint is lost the best of the epochs' whose checkpoints are not."""
    scored = [{"val_score": record["val_score"], "step": record["step"]} for record in state["history"]]
    scored.sort(key=lambda record: record["val_score"], reverse=True)  # of equal ones the first stays the first
    for best in ([state["best"]] if state["best"] else []) + scored:
        if not checkpoints.faults(checkpoints.tag(best["step"])):
            return best
    return {}


@dataclass(frozen=True)
class Restored:
    """A model brought back from a run folder, ready to answer questions."""

    config: RunConfig
    model: AdaptiveModel
    subject: Subject
    task: Task
    step: int
    folder: RunFolder
    place: Path
    """Where its files lie, in a checkpoint of the folder."""


def restore(run_path: Path, which: str = LATEST) -> Restored:
    """Bring back the model of checkpoint `which` ("latest" or "best") of a run, on the CPU in float32, in evaluation
    mode.

    Raises:
        UserError: no run folder, no whole checkpoint, or the base model is not the one the run started from.
    """
    folder = RunFolder(run_path)
    if not folder.config_file.is_file():
        above = next((place for place in run_path.parents if RunFolder(place).config_file.is_file()), None)
        way_out = f"the run folder it lies in, '{above}'" if above else "one that train.py made"
        raise UserError(f"'{run_path}' is not a run folder: it has no {folder.config_file.name}; give {way_out}.")
    config = load_run_config(["--config", str(folder.config_file)])
    checkpoints = folder.checkpoints
    tag = checkpoints.pointed(which)
    if tag is None:
        others = sorted(path.name for path in checkpoints.folder.glob("step_*") if "." not in path.name)
        found = f"it has {', '.join(others)} but no pointer to one of them" if others else "it has none at all yet"
        raise UserError(f"'{run_path}' has no {which} checkpoint: {found}.")
    faults = checkpoints.faults(tag)
    if faults:
        raise UserError(f"Checkpoint {tag} of '{run_path}' cannot be used: {faults[0]}.")
    place = checkpoints.folder / tag / ADAPTIVE
    facts = json.loads((place / TASK).read_text(encoding="utf-8"))
    subject = restore_subject(facts, place, config)
    if config.model.name is None:
        config.model.name = str(folder.base)
    base = build_base(config.model, subject.facts)
    task = subject.task(config, base)
    model = AdaptiveModel.from_pretrained(base, place)
    step = checkpoints.read_manifest(tag)["step"]
    return Restored(config, model, subject, task, step, folder, place)
