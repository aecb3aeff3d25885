"""A checkpoint read by another number of ranks: DeepSpeed's universal format, which holds every weight whole.

    checkpoints/step_000120/universal/manifest.json       as everywhere: without it there is nothing
    checkpoints/step_000120/universal/zero/NAME/fp32.pt   one trainable parameter; exp_avg.pt, exp_avg_sq.pt beside it

It lies inside the checkpoint it was made from, and so goes with it. DeepSpeed writes and reads it; two faults of its
reader (0.19.8) are made good here: a rank whose share of a parameter group is padding alone stops with an IndexError,
and under ZeRO-3 all groups get one and the same step counter, which every group then counts up in every update. The
frozen half is in no file: the engine has it from the base model.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.tensor_fragment import map_to_flat_opt_states
from torch import Tensor

from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.failed_writes import failed_write, tells_of_failed_write, told_as_failed
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import flush

UNIVERSAL = "universal"
MOMENTS = ("exp_avg", "exp_avg_sq")
CONVERTER = "deepspeed.checkpoint.ds_to_universal"
BOUND = Path(__file__).with_name("bound_program.py")
STAYS = " The checkpoint itself is whole; to read it on another number of ranks it is converted once."


def convert(checkpoints: CheckpointFolder, tag: str) -> None:
    """Write the folder `universal` of checkpoint `tag`, unless it is there and whole (one rank only; takes about as
    long as reading and writing the checkpoint twice, after its hashes have been compared).

    All is made in a folder of this start's own beside the checkpoint, and moved in when it is whole.

    Raises:
        UserError: the checkpoint is damaged, there is no room, or DeepSpeed's converter failed; nothing is left of what
            it wrote.
    """
    beside, checkpoint = checkpoints.inside(tag), checkpoints.folder / tag
    if not beside.faults(UNIVERSAL):
        return
    faults = checkpoints.faults(tag)
    if faults:
        raise UserError(f"Checkpoint '{checkpoint}' cannot be converted for another number of ranks: {faults[0]}.")
    try:
        with told_as_failed(f"'{checkpoint / UNIVERSAL}'", checkpoint, STAYS):
            workshop = checkpoints.begin(tag)
            # The converter would read what lies in the checkpoint, whole or not, as parts of it.
            for left in checkpoint.glob(f"{UNIVERSAL}*"):
                os.replace(left, workshop / left.name)
            made = checkpoints.inside(workshop.name)
            _run_converter(checkpoint, made.folder / made.unfinished(UNIVERSAL))
            made.finish(UNIVERSAL, {}, ())
            checkpoints.check()
            os.replace(made.folder / UNIVERSAL, checkpoint / UNIVERSAL)
            flush(checkpoint)
    finally:
        checkpoints.abandon()


def _run_converter(checkpoint: Path, place: Path) -> None:
    """DeepSpeed's converter, in a process that ends with this one."""
    # From inside the folder: the converter takes the path for a regular expression, where a "+" would fail.
    words = ("--input_folder", ".", "--output_folder", os.path.relpath(place, checkpoint), "--inject_missing_state")
    done = subprocess.run(
        [sys.executable, "-P", BOUND, str(os.getpid()), CONVERTER, *words],
        cwd=checkpoint,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if tells_of_failed_write(done.stderr):
        raise failed_write(f"'{checkpoint / UNIVERSAL}'", checkpoint, reason, consequence=STAYS)
    raise UserError(
        f"Checkpoint '{checkpoint}' could not be converted for another number of ranks: {reason}. Resume with the"
        " number of ranks it was written by."
    )


def read_converted(engine: Any, checkpoint: Path) -> dict[str, Any]:
    """Put `checkpoint/universal` into model and optimizer of a DeepSpeed `engine` under ZeRO 1 to 3; the state that
    was saved beside the weights (collective).

    Raises:
        UserError: the checkpoint holds other parameters than the trainable ones of the model; nothing has been touched.
    """
    trainable = {name for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    _check_names({path.name for path in (checkpoint / UNIVERSAL / "zero").iterdir() if path.is_dir()}, trainable)
    if not engine.zero_optimization_partition_weights():
        engine.optimizer.load_hp_checkpoint_state_from_checkpoint_dir = functools.partial(_read_split, engine.optimizer)
    engine._config.load_universal_checkpoint = True
    try:
        _, state = engine.load_checkpoint(str(checkpoint), tag=UNIVERSAL)
    finally:
        engine._config.load_universal_checkpoint = False
    for moments in engine.basic_optimizer.state.values():
        if isinstance(moments["step"], Tensor):
            moments["step"] = moments["step"].clone()
    return dict(state)


def _read_split(optimizer: Any, groups: str, folder: str) -> None:
    """What DeepSpeed's method of the same use does, but for groups of which this rank has no share.

    optimizer: DeepSpeed's around AdamW under ZeRO 1 or 2; groups: the name of its lists of parameters.
    """
    zero = Path(folder) / "zero"
    common = torch.load(zero / "optimizer_state.pt", map_location="cpu", weights_only=False)
    optimizer._load_global_state(common)
    for flat_group, members in zip(optimizer.optimizer.param_groups, getattr(optimizer, groups), strict=True):
        here = [parameter for parameter in members if parameter._hp_mapping is not None]
        if here:
            step, *_ = [
                member.load_hp_checkpoint_state(str(zero / optimizer.param_names[member]), 0, 1) for member in here
            ]
            (flat,) = flat_group["params"]
            optimizer.optimizer.state[flat]["step"] = step
            map_to_flat_opt_states(flat, members, optimizer.optimizer.state, MOMENTS)


def _check_names(written: set[str], here: Iterable[str]) -> None:
    lost, unknown = sorted(set(here) - written), sorted(written - set(here))
    if lost or unknown:
        raise UserError(
            f"The checkpoint does not belong to this model: {len(lost)} trainable parameters are missing in it"
            f" {lost[:3]}, {len(unknown)} are unknown {unknown[:3]}."
            " Resume with the model and strategy the run was started with."
        )
