"""Which base model an adapted one stands on: written down when it is saved, and loaded again from that record.

The record holds the whole configuration and not only the name, because a head may have been resized after loading.
"""

from collections.abc import Mapping
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from adaptive_ft.errors import UserError
from adaptive_ft.models import vlbert
from adaptive_ft.models.bases.reading import read_pretrained

LIBRARIES = {"transformers": transformers, "adaptive_ft": vlbert}
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
        "config": base.config.to_diff_dict(),
    }


def load_recorded(record: Mapping[str, Any]) -> PreTrainedModel:
    """The base model that `record_of` wrote down; weights that its checkpoint lacks are random.

    Raises UserError when the class is neither one of transformers nor VL-BERT's, when the model was made without a
    checkpoint, and when its checkpoint cannot be read.
    """
    library, name = record.get("library"), record["name"]
    found: Any = getattr(LIBRARIES.get(str(library)), record["class"], None)
    is_known = isinstance(found, type) and issubclass(found, PreTrainedModel)
    if not is_known or "config" not in record:
        raise UserError(f"the base model is a {record['class']} of '{library}', which is not known here. {WAY_OUT}")
    if not name:
        raise UserError(f"the base model is a {record['class']} of which no folder and no hub id is known. {WAY_OUT}")
    config = found.config_class.from_dict(record["config"])
    options = {"revision": record["revision"]} if record["revision"] else {}
    try:
        # A head of another size comes from the adapted model's own file.
        base: PreTrainedModel = read_pretrained(
            found.from_pretrained, name, config=config, dtype=record["dtype"], ignore_mismatched_sizes=True, **options
        )
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {WAY_OUT}") from error
    return base
