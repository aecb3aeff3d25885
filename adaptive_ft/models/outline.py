"""A model without weights, from its configuration alone: enough to name its components and to count its parameters."""

import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from adaptive_ft.errors import UserError
from adaptive_ft.models import FAMILIES
from adaptive_ft.models.bases.reading import read_pretrained

BACKBONES: tuple[Any, ...] = tuple(FAMILIES)  # every one has the config_class of transformers' models


def outline(name: str) -> nn.Module:
    """The model of the folder or hub id `name` on the meta device; only its config.json is read.

    It is of the class that the configuration names, if that holds a known backbone, and the bare backbone otherwise.
    Raises UserError when the configuration cannot be read or belongs to no known family.
    """
    config = read_pretrained(AutoConfig.from_pretrained, name)
    # A model of pictures and texts (CLIP) keeps the configuration of its picture side inside its own.
    for candidate in (config, getattr(config, "vision_config", None)):
        backbone = _backbone(candidate)
        if backbone is not None:
            with torch.device("meta"):
                return _named(candidate, backbone)(candidate)
    known = ", ".join(backbone.config_class.model_type for backbone in BACKBONES)
    raise UserError(f"model '{name}' is of type '{config.model_type}'; these can be adapted: {known}.")


def _backbone(config: Any) -> Any:
    """The registered backbone class that is built from such a configuration, or None."""
    return next((backbone for backbone in BACKBONES if backbone.config_class is type(config)), None)


def _named(config: Any, backbone: Any) -> Any:
    """The class that the configuration names, where it stands beside the backbone; else the backbone."""
    family = sys.modules[backbone.__module__]
    found = getattr(family, (config.architectures or [""])[0], backbone)
    return found if getattr(found, "config_class", None) is type(config) else backbone
