"""What a run leaves behind so that it can go on, be evaluated, or become somebody's base model.

A checkpoint's `adaptive/` folder is enough to answer questions again: what was learned, the answer table, the
tokenizer; the frozen half is the base model's, proved by a hash.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.adaptive_files import read_files
from adaptive_ft.build import Run
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.engine.checkpoint import BEST, LATEST, write_atomically
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import build_base
from adaptive_ft.run_folder import RunFolder

ADAPTIVE = "adaptive"
TASK = "task.json"


def save_checkpoint(run: Run, state: dict[str, Any], *, best: bool) -> None:
    """Write a whole checkpoint of all ranks after the current update, then move the pointers (collective)."""
    checkpoints, ranks = run.folder.checkpoints, run.ranks
    tag = checkpoints.tag(run.engine.updates)
    ranks.on_main(lambda: checkpoints.begin(tag))
    run.engine.save(checkpoints.folder, tag, {**state, "frozen_hash": run.parts.model.frozen_hash()})
    weights = run.engine.gathered_trainable_state()
    if ranks.is_main:
        place = checkpoints.folder / tag / ADAPTIVE
        run.parts.model.save_pretrained(place, weights)
        run.parts.tokenizer.save_pretrained(place)
        write_atomically(place / TASK, json.dumps(_task_facts(run), ensure_ascii=False))
    ranks.barrier()
    if ranks.is_main:
        facts = {
            "step": run.engine.updates,
            "world_size": ranks.world_size,
            "zero_stage": run.engine.zero_stage,
        }
        checkpoints.finish(tag, facts)
        if best:
            checkpoints.point(BEST, tag)
        checkpoints.prune(run.config.save_total_limit)
    ranks.barrier()


def _task_facts(run: Run) -> dict[str, Any]:
    return {
        "answer_table": run.parts.task.answer_table,
        "visual_feat_dim": run.parts.train_shards.feature_dim,
        "blind": run.config.data.blind,
    }


def load_checkpoint(run: Run) -> dict[str, Any] | None:
    """Put the newest whole checkpoint back into the engine; its state, or None when the run starts afresh (collective).

    Raises:
        UserError: the checkpoint was written by another number of ranks, another ZeRO stage, or from another base
        model.
    """
    if run.config.resume == "none":
        return None
    checkpoints = run.folder.checkpoints
    tag, passed_over = run.ranks.on_main(checkpoints.newest_whole)
    if run.ranks.is_main:
        for sentence in passed_over:
            print(sentence, flush=True)
        print(f"resuming from {tag}" if tag else "nothing to resume from: starting afresh", flush=True)
    if tag is None:
        return None
    facts = run.ranks.on_main(lambda: checkpoints.read_manifest(tag))
    run.ranks.together(lambda: _check_same_split(run, tag, facts))
    run.ranks.together(lambda: _check_same_method(run, tag))
    state = run.engine.load(checkpoints.folder, tag)
    run.ranks.together(lambda: _check_same_base(run, tag, state))
    return state


def _check_same_split(run: Run, tag: str, facts: dict[str, Any]) -> None:
    here = {"world_size": run.ranks.world_size, "zero_stage": run.engine.zero_stage}
    for name, value in here.items():
        if facts[name] != value:
            raise UserError(
                f"Checkpoint {tag} of '{run.folder.path}' was written with {name} {facts[name]}, this run has {value}:"
                " resume with the same number of ranks and the same ZeRO stage, or remove the folder to start afresh."
            )


def _check_same_method(run: Run, tag: str) -> None:
    """Strategy and policy shape the weights of a checkpoint; temperature and the like may change on the way."""
    saved, _ = read_files(run.folder.checkpoints.folder / tag / ADAPTIVE)
    before, here = AdaptiveConfig.from_saved(saved["adaptive"]), run.config.adapt
    for name in ("strategy", "frozen_layers", "policy"):
        if getattr(before, name) != getattr(here, name):
            raise UserError(
                f"Checkpoint {tag} of '{run.folder.path}' was written with {name} {getattr(before, name)}, this run has"
                f" {getattr(here, name)}: resume with the same one."
            )


def _check_same_base(run: Run, tag: str, state: dict[str, Any]) -> None:
    if state["frozen_hash"] != run.parts.model.frozen_hash():
        raise UserError(
            f"Checkpoint {tag} of '{run.folder.path}' was trained from another base model than"
            f" '{run.config.model.name or 'random weights'}' (their frozen weights differ)."
        )


@dataclass(frozen=True)
class Restored:
    """A model brought back from a run folder, ready to answer questions."""

    config: RunConfig
    model: AdaptiveModel
    tokenizer: PreTrainedTokenizerBase
    answer_table: list[str]
    step: int


def restore(run_path: Path, which: str = LATEST) -> Restored:
    """Bring back the model of checkpoint `which` ("latest" or "best") of a run, on the CPU in float32, in evaluation
    mode.

    Raises:
        UserError: no run folder, no whole checkpoint, or the base model is not the one the run started from.
    """
    folder = RunFolder(run_path)
    if not folder.config_file.is_file():
        raise UserError(f"'{run_path}' is not a run folder: it has no {folder.config_file.name}.")
    config = load_run_config(["--config", str(folder.config_file)])
    checkpoints = folder.checkpoints
    tag = checkpoints.pointed(which)
    if tag is None:
        raise UserError(f"'{run_path}' has no {which} checkpoint.")
    faults = checkpoints.faults(tag)
    if faults:
        raise UserError(f"Checkpoint {tag} of '{run_path}' cannot be used: {faults[0]}.")
    place = checkpoints.folder / tag / ADAPTIVE
    facts = json.loads((place / TASK).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(place)
    if config.model.name is None:
        config.model.name = str(folder.base)
    base = build_base(
        config.model,
        num_answers=len(facts["answer_table"]),
        visual_feat_dim=facts["visual_feat_dim"],
        vocab_size=len(tokenizer),
    )
    model = AdaptiveModel.from_pretrained(base, place)
    return Restored(config, model, tokenizer, facts["answer_table"], checkpoints.read_manifest(tag)["step"])


def export_merged(run_path: Path, destination: Path) -> None:
    """Write a run's best model as a plain Hugging Face model with its tokenizer: the base of the next run.

    Raises:
        UserError: the strategy decides per input, so there is no one set of weights.
    """
    restored = restore(run_path, BEST)
    partial = destination.with_name(destination.name + ".unfinished")
    merged: PreTrainedModel = restored.model.merge_and_unload()
    merged.save_pretrained(partial)
    restored.tokenizer.save_pretrained(partial)
    partial.replace(destination)
