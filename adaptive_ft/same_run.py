"""What a resumed run must share with the one that wrote its checkpoint.

The position in the data, the shapes of weights, optimizer and meters, and the method itself depend on these facts:
they lie in the checkpoint's manifest under the names of their options, with the validation data, which the curves
and the best checkpoint are judged on. Learning rates may change on the way, and epochs and steps may grow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import yaml

from adaptive_ft.adaptive_files import read_description
from adaptive_ft.build import Run
from adaptive_ft.config import RunConfig, dump_run_config
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.strategies import canonical

ADAPTIVE = "adaptive"
# Facts that are no single option's value.
IN_WORDS = {
    "world_size": "a number of ranks of",
    "zero_stage": "a ZeRO stage (--ds_config) of",
    "global_batch": "a batch of all ranks (--per_device_train_batch_size x --gradient_accumulation_steps x ranks) of",
    "train_data": "training shards (--data.train) with the fingerprint",
    "val_data": "validation shards (--data.val) with the fingerprint",
    "answer_table_sha256": "an answer table (--data.train) with SHA-256",
}
# Facts that the first checkpoints do not tell.
LATER = {"val_data"}
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
    for name, value in here.items():
        if written.get(name) != value and not (name in LATER and name not in written):
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


def changed_options(folder: RunFolder, config: RunConfig) -> list[str]:
    """ "NAME: OLD -> NEW" for each option whose value in the folder's config.yaml is not that of `config`.

    Options that the file does not hold, for it is older than they are or a person has spoilt it, are passed over.
    """
    try:
        last = dict(_dotted(yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        last = {}
    now = _dotted(yaml.safe_load(dump_run_config(config)))
    return [
        f"{name}: {last[name]} -> {value}"
        for name, value in now
        if name not in PLACE and name in last and last[name] != value
    ]


def _dotted(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The single values of nested mappings under their dotted names; nothing for what is no mapping."""
    for name, value in section.items() if isinstance(section, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
