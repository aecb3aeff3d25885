"""What a run refuses before anything is written: options no run can have, and parts that do not go together.

Every check raises `UserError` with the value, the place and the way out.
"""

import math
from operator import attrgetter

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.engine.watchdog import WORK_SECONDS
from adaptive_ft.errors import UserError

LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "save_steps": 1,
    "rank_timeout": 1,
    "save_total_limit": 1,
    "data.readers": 1,
    "tracking.logging_steps": 1,
    "tracking.peak_tflops": 0.001,
    # [CLS], one word, [SEP].
    "task.max_question_length": 3,
    "model.hidden_size": 1,
    "model.num_attention_heads": 1,
    "model.intermediate_size": 1,
    "model.language_layers": 1,
    "model.region_layers": 1,
    "model.cross_layers": 1,
    "model.layers": 1,
    "model.image_size": 1,
    "model.patch_size": 1,
    "model.visual_scale_init": 0,
    "model.coordinate_waves": 1,
    "model.max_position_embeddings": 1,
    "model.initializer_range": 0,
    "optim.warmup_steps": 0,
    "optim.learning_rate": 0,
    "optim.head_learning_rate": 0,
    "optim.policy_learning_rate": 0,
    "optim.weight_decay": 0,
    "optim.delta_weight_decay": 0,
    "optim.eps": 0,
    "optim.max_grad_norm": 0,
}
SHARES = (
    "optim.warmup_ratio",
    "model.hidden_dropout",
    "model.attention_dropout",
    "task.flip_probability",
    "pictures.flip_probability",
    "pictures.smallest_crop",
    "pictures.label_smoothing",
)
# What every generator of random numbers takes.
MAX_SEED = 2**32 - 1


def check_options(config: RunConfig) -> None:
    """Refuse numbers that no run can have, whatever its data and model."""
    for option, least in LEAST.items():
        value = attrgetter(option)(config)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"--{option} is {value}; it must be at least {least}.")
    if config.rank_timeout >= WORK_SECONDS:
        raise UserError(
            f"--rank_timeout is {config.rank_timeout:g}; it must be below {WORK_SECONDS:g} s, after which all waiting"
            " for another rank ends in any case."
        )
    for option in SHARES:
        value = attrgetter(option)(config)
        if not 0 <= value <= 1:
            raise UserError(f"--{option} is {value}; it is a share, from 0 to 1.")
    if not 0 < config.num_train_epochs < math.inf:
        raise UserError(f"--num_train_epochs is {config.num_train_epochs}; it must be above 0.")
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise UserError(f"--optim.betas are {config.optim.betas}; both lie from 0 to below 1.")
    if not 0 <= config.seed <= MAX_SEED:
        raise UserError(f"--seed is {config.seed}; it lies from 0 to {MAX_SEED}.")


def check_answered(shards: ShardSet) -> None:
    """Refuse to train or to judge on questions whose answers are not public."""
    if not shards.manifest.answered:
        raise UserError(
            f"The questions in '{shards.address}' have no answers, so nothing can be learned or judged from them: name"
            " answered shards (adaptive-ft eval --predictions answers the others)."
        )


def check_same_data(train: ShardSet, val: ShardSet) -> None:
    """Refuse two shard sets that one model cannot serve: other answers, feature sizes or feature extractors."""
    pairs: list[tuple[str, object, object]] = [
        ("content", train.manifest.content, val.manifest.content),
        (
            "answer table (SHA-256)",
            train.manifest.answer_table_sha256[:12],
            val.manifest.answer_table_sha256[:12],
        ),
        ("feature size", train.feature_dim, val.feature_dim),
        ("feature extractor", train.manifest.feature_extractor, val.manifest.feature_extractor),
    ]
    for what, first, second in pairs:
        if first != second:
            raise UserError(
                f"The shards in '{train.address}' and '{val.address}' differ in their {what}: {first} and {second}."
                " Write both with the same options."
            )


def check_question_length(wanted: int, longest: int) -> None:
    """Refuse questions of more tokens than the base model has positions for."""
    if wanted > longest:
        raise UserError(
            f"--task.max_question_length is {wanted}, but the base model has positions for {longest} tokens: use"
            f" {longest} or less."
        )


def check_export(destination: str | None, model: AdaptiveModel) -> None:
    """Refuse before the training a model that could not be exported after it (the folder: `exported`)."""
    if destination is None:
        return
    if model.decisions and model.config.eval_decisions != "global":
        raise UserError(
            f"--export_to '{destination}' needs one set of weights, but strategy '{model.config.strategy}' decides per"
            " input: leave it out, choose a strategy with constant decisions, or evaluate and export one decision for"
            " all inputs with --adapt.eval_decisions global."
        )
