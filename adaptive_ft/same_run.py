"""What a resumed run must share with the one that wrote its checkpoint.

The position in the data, the shapes of weights, optimizer and meters, and the method itself depend on these facts:
they lie in the checkpoint's manifest under the names of their options, with the validation data, which the curves
and the best checkpoint are judged on. Learning rates may change on the way, and epochs and steps may grow; so may the
number of ranks and how the batch is cut among them, as long as all of them together take the same batch.
"""

from dataclasses import asdict
from typing import Any

import yaml

from adaptive_ft.adaptive_files import read_description
from adaptive_ft.build import Run
from adaptive_ft.config import RunConfig, dotted, dotted_options
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.strategies import canonical

ADAPTIVE = "adaptive"
# Facts that are no single option's value.
IN_WORDS = {
    "zero_stage": "a ZeRO stage (--ds_config) of",
    "global_batch": "a batch of all ranks (--per_device_train_batch_size x --gradient_accumulation_steps x ranks) of",
    "train_data": "training shards (--data.train) with the fingerprint",
    "val_data": "validation shards (--data.val) with the fingerprint",
    "answer_table_sha256": "an answer table (--data.train) with SHA-256",
}
# Facts that the first checkpoints do not tell.
LATER = {"val_data", "adapt.gate_gradient"}
# Facts that may change while the product of all of them, the global batch, stays.
CUTS = {"world_size", "gradient_accumulation_steps"}
# Options that say where the run lies and how to go on, and so change with every resume.
PLACE = {"name", "output_dir", "resume", "stop_file"}


def shared_facts(run: Run) -> dict[str, Any]:
    """The facts by name, plain JSON values: those in `IN_WORDS`, else the option's."""
    config, parts = run.config, run.parts
    policy = asdict(config.adapt.policy) if parts.model.decisions else {}
    scales = {name: value for name, value in asdict(config.losses).items() if name.endswith("_scale")}
    return {
        "world_size": run.ranks.world_size,
        "zero_stage": run.engine.zero_stage,
        "precision": config.precision,
        "gradient_accumulation_steps": parts.numbers.accumulation,
        "global_batch": parts.numbers.global_batch,
        "seed": config.seed,
        "data.blind": config.data.blind,
        "train_data": parts.train_shards.fingerprint,
        "val_data": parts.val_shards.fingerprint,
        "answer_table_sha256": parts.train_shards.manifest.answer_table_sha256,
        "optim.decay": config.optim.decay,
        "adapt.strategy": canonical(config.adapt.strategy),
        "adapt.frozen_layers": list(config.adapt.frozen_layers),
        "adapt.delta_rank": config.adapt.delta_rank,
        "adapt.gate_gradient": config.adapt.gate_gradient,
        **{f"adapt.policy.{name}": value for name, value in policy.items()},
        **{f"losses.{name}": value for name, value in scales.items()},
        "losses.budget_form": config.losses.budget_form,
    }


def check_same_run(run: Run, tag: str) -> None:
    """Refuse to go on from checkpoint `tag` with a config or a base model that no longer fits it (rank 0 only).

    Raises:
        UserError: names the first fact that differs, both values and the way out.
    """
    checkpoints = run.folder.checkpoints
    written, here = checkpoints.read_manifest(tag), shared_facts(run)
    which = f"Checkpoint {tag} of '{run.folder.path}' was written"
    _check_batch(run, which, written["global_batch"])
    for name, value in here.items():
        if name not in CUTS and written.get(name) != value and not (name in LATER and name not in written):
            raise UserError(
                f"{which} with {IN_WORDS.get(name, f'--{name}')} {written.get(name)}, this run has {value}: resume with"
                " what it was written with, or start a new run under another --name."
            )
    if written["step"] > run.total_updates:
        raise UserError(
            f"{which} after update {written['step']}, this run ends after {run.total_updates}: resume with a larger"
            " --max_steps or --num_train_epochs, or start a new run under another --name."
        )
    if read_description(checkpoints.folder / tag / ADAPTIVE)["frozen_sha256"] != run.parts.model.frozen_hash():
        raise UserError(
            f"{which} from another base model than '{run.config.model.name or 'random weights'}' (--model.name): their"
            " frozen weights differ; resume with that one, or start a new run under another --name."
        )


def why_not_resumed(run: Run) -> str | None:
    """The sentence that refuses to go on from the newest whole checkpoint of the run's folder; None where nothing
    stands in the way or there is none (rank 0 only).
    """
    run.folder.checkpoints.settle()
    tag, _ = run.folder.checkpoints.newest_whole()
    try:
        if tag is not None:
            check_same_run(run, tag)
    except UserError as refusal:
        return str(refusal)
    return None


def _check_batch(run: Run, which: str, written: int) -> None:
    """Refuse another batch of all ranks than was `written`, and say what keeps it on this number of ranks."""
    numbers = run.parts.numbers
    if numbers.global_batch == written:
        return
    ranks, micro, accumulation = numbers.world_size, numbers.micro_batch, numbers.accumulation
    share = written // ranks
    ways = (
        ("--per_device_train_batch_size", share // accumulation, share // accumulation, accumulation),
        ("--gradient_accumulation_steps", share // micro, micro, share // micro),
    )
    kept = [
        f"{option} {part} ({ranks} ranks x {of_each} x {times})"
        for option, part, of_each, times in ways
        if ranks * of_each * times == written
    ]
    way_out = " or ".join(kept) or (
        f"--per_device_train_batch_size and --gradient_accumulation_steps whose product is {share}"
        if written % ranks == 0
        else f"a number of ranks that divides {written}"
    )
    raise UserError(
        f"{which} with {IN_WORDS['global_batch']} {written}, this run has {numbers.global_batch}: resume with"
        f" {way_out}, or start a new run under another --name."
    )


def changed_options(folder: RunFolder, config: RunConfig) -> list[str]:
    """ "NAME: OLD -> NEW" for each option whose value in the folder's config.yaml is not that of `config`.

    Options that the file does not hold, for it is older than they are or a person has spoilt it, are passed over.
    """
    try:
        last = dotted(yaml.safe_load(folder.config_file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        last = {}
    return [
        f"{name}: {last[name]} -> {value}"
        for name, value in dotted_options(config).items()
        if name not in PLACE and name in last and last[name] != value
    ]
