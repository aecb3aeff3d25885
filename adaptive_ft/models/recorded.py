"""Which base model an adapted one stands on: written down when it is adapted, loaded again from that record, and
compared with it.

The record holds the whole configuration and not only the name, because a head may have been resized after loading.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from adaptive_ft.errors import UserError
from adaptive_ft.models import vlbert
from adaptive_ft.models.bases.reading import UNREADABLE, is_file_name, read_pretrained
from adaptive_ft.models.torch_files import reason_of

LIBRARIES = {"transformers": transformers, "adaptive_ft": vlbert}
# Options in which two models may differ whose weights have the same shapes, or where the shapes would not say why.
COMPARED = frozenset(
    {
        *("hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "num_attention_heads"),
        *("num_hidden_layers", "l_layers", "r_layers", "x_layers", "mlp_ratio", "use_swiglu_ffn", "qkv_bias"),
        *("pooler_act", "apply_layernorm", "patch_size", "pad_token_id", "mask_token_id", "tie_word_embeddings"),
        *("is_decoder", "add_cross_attention", "bypass_transformer", "visual_ln", "visual_size"),
    }
)
WAY_OUT = "Load the base yourself and give it: AdaptiveModel.from_pretrained(base, folder)."


def record_of(base: nn.Module) -> dict[str, Any]:
    """What it takes to load `base` again, as plain JSON values; no "config" where it is no transformers model."""
    record: dict[str, Any] = {
        "library": type(base).__module__.partition(".")[0],
        "class": type(base).__name__,
        "name": getattr(getattr(base, "config", None), "name_or_path", ""),
    }
    if not isinstance(base, PreTrainedModel):
        return record
    dtype = str(base.dtype).removeprefix("torch.")
    return {
        **record,
        "revision": getattr(base.config, "_commit_hash", None),
        "dtype": dtype,
        "config": copy.deepcopy(base.config.to_diff_dict()),
    }


def check_same_base(record: Mapping[str, Any], base: nn.Module) -> None:
    """Refuse a base of another class or dtype than `record_of` wrote down, or one that computes something else.

    A class of somebody's own is compared by the type of its model alone: it may have been moved or renamed.
    """
    here, name = record_of(base), record["name"] or "a model without a name"
    known = _recorded_class(record)
    if known is not None and not isinstance(base, known):
        raise _differs("class", record["class"], here["class"], f"load {name} as a {record['class']}")
    if "config" not in record or "config" not in here:
        return
    was, now = record["config"].get("model_type"), here["config"].get("model_type")
    if was != now:
        raise _differs("model_type", was, now, f"load {name}")
    config: Any = base.config
    recorded = _config_of(record, type(config))
    for option, was, now in _differing(recorded.to_dict(), config.to_dict()):
        raise _differs(f"config.{option}", was, now, f"load {name} with its own configuration")
    if record["dtype"] != here["dtype"]:
        way_out = f"load {name} with dtype=torch.{record['dtype']}, and cast the adapted model afterwards"
        raise _differs("dtype", record["dtype"], here["dtype"], way_out)


def _differs(what: str, was: object, now: object, way_out: str) -> UserError:
    """The refusal of a base that differs in one thing."""
    return UserError(
        f"the base model differs: its {what} is {now!r}, the adapted one's was {was!r}. To go on, {way_out}."
    )


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """The compared options, also those of configurations inside, that are not the same: name and both values."""
    for option, now in after.items():
        was = before.get(option)
        if option in COMPARED and was != now:
            yield option, was, now
        elif isinstance(now, Mapping) and isinstance(was, Mapping):
            for inner, *values in _differing(was, now):
                yield f"{option}.{inner}", values[0], values[1]


def _recorded_class(record: Mapping[str, Any]) -> type[PreTrainedModel] | None:
    """The class that a record names, if it is one of transformers or VL-BERT's, and not one that others are made of."""
    found: Any = getattr(LIBRARIES.get(str(record.get("library"))), record["class"], None)
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    return found if is_model and found.forward is not nn.Module.forward else None


def _config_of(record: Mapping[str, Any], kind: Any) -> PreTrainedConfig:
    """The recorded configuration, as one of class `kind`; raises UserError where it is none."""
    try:
        config: PreTrainedConfig = kind.from_dict(copy.deepcopy(record["config"]))
    except UNREADABLE as error:
        raise UserError(
            f"'base_model' in adaptive_config.json holds a config that cannot be read: {reason_of(error)}: take the"
            " file as save_pretrained wrote it, or save again."
        ) from error
    return config


def load_recorded(record: Mapping[str, Any]) -> PreTrainedModel:
    """The base model that `record_of` wrote down; weights that its checkpoint lacks are random.

    Raises UserError when the class is neither one of transformers nor VL-BERT's, when the model was made without a
    checkpoint or from an original file, and when its checkpoint cannot be read.
    """
    library, name, found = record.get("library"), record["name"], _recorded_class(record)
    if found is None or "config" not in record:
        raise UserError(f"the base model is a {record['class']} of '{library}', which is not known here. {WAY_OUT}")
    if not name:
        raise UserError(f"the base model is a {record['class']} of which no folder and no hub id is known. {WAY_OUT}")
    if is_file_name(name):
        raise UserError(f"the base model was read from '{name}', a file of an original project. {WAY_OUT}")
    config = _config_of(record, found.config_class)
    options = {"revision": record["revision"]} if record.get("revision") else {}
    try:
        # A head of another size comes from the adapted model's own file.
        base: PreTrainedModel = read_pretrained(
            found.from_pretrained, name, config=config, dtype=record["dtype"], ignore_mismatched_sizes=True, **options
        )
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {WAY_OUT}") from error
    return base
