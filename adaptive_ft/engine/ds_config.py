"""The DeepSpeed JSON: engine matters only; every number that the run owns is filled into its "auto" fields.

One owner per number: batch sizes, accumulation, clipping and precision come from the run's config. A JSON that says
otherwise is an error, not a silent winner (DeepSpeed itself does not know "auto": huggingface/accelerate PR#676).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_ft.errors import UserError

AUTO = "auto"
REFUSED = {
    "scheduler": "learning rates follow the run's own schedule for every parameter group; remove the block",
    "optimizer": "the optimizer is built from the run's `optim` section; remove the block",
    "wandb": "trackers belong to the run's `tracking` section; remove the block",
    "tensorboard": "trackers belong to the run's `tracking` section; remove the block",
}

SECTIONS = {"bf16": '{"enabled": "auto"}', "fp16": '{"enabled": false}', "zero_optimization": '{"stage": 2}'}


@dataclass(frozen=True)
class EngineNumbers:
    """What the run decides and DeepSpeed must obey."""

    micro_batch: int
    accumulation: int
    world_size: int
    max_grad_norm: float
    precision: str

    @property
    def global_batch(self) -> int:
        """Examples per update over all ranks and micro-batches."""
        return self.micro_batch * self.accumulation * self.world_size

    def fields(self) -> dict[str, Any]:
        """The JSON fields, dotted, with the value the run wants in each."""
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "train_batch_size": self.global_batch,
            "gradient_clipping": self.max_grad_norm,
            "bf16.enabled": self.precision == "bf16",
        }


OPTION_OF = {
    "train_micro_batch_size_per_gpu": "--per_device_train_batch_size",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "train_batch_size": "--per_device_train_batch_size x --gradient_accumulation_steps x ranks",
    "gradient_clipping": "--optim.max_grad_norm",
    "bf16.enabled": "--precision",
}


def read_ds_config(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        UserError: no such file, not JSON, not an object, a section that is none, or a block that the run itself owns.
    """
    if not path.is_file():
        raise UserError(f"There is no DeepSpeed config '{path}'; the ready ones are in ds_configs/.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"The DeepSpeed config '{path}' is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"The DeepSpeed config '{path}' must hold one JSON object, it holds a {type(content).__name__}."
        )
    for block, reason in REFUSED.items():
        if block in content:
            raise UserError(f"The DeepSpeed config '{path}' has a '{block}' block: {reason}.")
    for block in SECTIONS:
        if not isinstance(content.get(block, {}), dict):
            raise UserError(
                f"The DeepSpeed config '{path}' has {block} = {json.dumps(content[block])}; it must be an object, such"
                f' as "{block}": {SECTIONS[block]}.'
            )
    half = content.get("fp16", {}).get("enabled", False)
    if half is not False:
        raise UserError(
            f"The DeepSpeed config '{path}' has fp16.enabled = {json.dumps(half)}; this trainer knows fp32 and bf16,"
            " not fp16: remove the block and use --precision bf16."
        )
    return content


def fill_ds_config(content: dict[str, Any], numbers: EngineNumbers, source: Path) -> dict[str, Any]:
    """A copy of `content` with the run's numbers in place of "auto" or of nothing.

    Raises:
        UserError: the JSON holds another value than the run, or an "auto" that nobody fills.
    """
    filled = json.loads(json.dumps(content))
    for dotted, value in numbers.fields().items():
        *parents, key = dotted.split(".")
        section = filled
        for parent in parents:
            section = section.setdefault(parent, {})
        stated = section.get(key, AUTO)
        if stated != AUTO and stated != value:
            raise UserError(
                f"'{source}' says {dotted} = {stated}, the run says {value} ({OPTION_OF[dotted]}); "
                f'write "auto" in the JSON, or make the two agree.'
            )
        section[key] = value
    left_over = _auto_fields(filled, "")
    if left_over:
        raise UserError(
            f"'{source}' has \"auto\" in {', '.join(left_over)}, which this trainer does not fill: write a value."
        )
    return filled


def _auto_fields(section: dict[str, Any], prefix: str) -> list[str]:
    found = []
    for key, value in section.items():
        if value == AUTO:
            found.append(prefix + key)
        elif isinstance(value, dict):
            found += _auto_fields(value, f"{prefix}{key}.")
    return found
