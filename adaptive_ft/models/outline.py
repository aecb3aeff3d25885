"""A model without weights, from its configuration alone: enough to name its components and to count its parameters."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from adaptive_ft.errors import UserError
from adaptive_ft.models import FAMILIES, describe, vlbert
from adaptive_ft.models.bases.reading import read_pretrained

BACKBONES: tuple[Any, ...] = tuple(FAMILIES)  # every one has the config_class of transformers' models


@dataclass(frozen=True)
class Outline:
    """`model` on the meta device; `part_of` names the whole, where the model is no more than its backbone."""

    model: nn.Module
    part_of: str | None


def outline(name: str) -> Outline:
    """The model of the folder or hub id `name` on the meta device; only its config.json is read.

    It is of the class that the configuration names, if that can be adapted, and the bare backbone otherwise.
    Raises UserError when the configuration cannot be read or belongs to no known family.
    """
    config = read_pretrained(AutoConfig.from_pretrained, name)
    named = (config.architectures or [None])[0]
    with torch.device("meta"):
        whole = _whole(config, named or "")
        if whole is not None:
            return Outline(whole, None)
        # A model of pictures and texts (CLIP) keeps the configuration of its picture side inside its own.
        for candidate in (config, getattr(config, "vision_config", None)):
            backbone = _backbone(candidate)
            if backbone is not None:
                part = _made(backbone, candidate)
                return Outline(part, named or (config.model_type if candidate is not config else None))
    known = ", ".join(backbone.config_class.model_type for backbone in BACKBONES)
    raise UserError(f"model '{name}' is of type '{config.model_type}'; these can be adapted: {known}.")


def _whole(config: Any, named: str) -> nn.Module | None:
    """The model of the class that the configuration names, or None for one that is unknown or cannot be adapted."""
    for home in (transformers, vlbert):
        found: Any = getattr(home, named, None)
        if getattr(found, "config_class", None) is type(config):
            model = _made(found, config)
            try:
                describe(model)
            except UserError:
                return None
            return model
    return None


def _made(kind: Any, config: Any) -> nn.Module:
    """The model of class `kind`; transformers' own refusals name neither the file nor the class."""
    try:
        model: nn.Module = kind(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        name, reason = config.name_or_path, " ".join(str(error).split())
        raise UserError(
            f"no {kind.__name__} can be made from the config.json of '{name}': {type(error).__name__}: {reason}."
        ) from error
    return model


def _backbone(config: Any) -> Any:
    """The registered backbone class that is built from such a configuration, or None."""
    return next((backbone for backbone in BACKBONES if backbone.config_class is type(config)), None)
