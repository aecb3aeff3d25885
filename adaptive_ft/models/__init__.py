"""Model families the method knows: for each backbone class, where its components sit."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import (
    BertModel,
    CamembertModel,
    CLIPVisionModel,
    DeiTModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    LxmertModel,
    RobertaModel,
    VisualBertModel,
    ViTModel,
    XLMRobertaModel,
)

from adaptive_ft.errors import UserError
from adaptive_ft.models import lxmert, single_stream, vlbert
from adaptive_ft.models.anatomy import Anatomy, Block, Leaf
from adaptive_ft.models.lxmert_attention import undo_sdpa, use_sdpa
from adaptive_ft.models.recomputing import allow_recomputing, undo_recomputing

__all__ = [
    "FAMILIES",
    "Anatomy",
    "Block",
    "Leaf",
    "allow_recomputing",
    "describe",
    "undo_recomputing",
    "undo_sdpa",
    "use_sdpa",
]

FAMILIES: dict[type[nn.Module], Callable[[Any, str], Anatomy]] = {
    LxmertModel: lxmert.describe,
    vlbert.VLBertModel: single_stream.describe,
    BertModel: single_stream.describe,
    RobertaModel: single_stream.describe,
    XLMRobertaModel: single_stream.describe,
    CamembertModel: single_stream.describe,
    VisualBertModel: single_stream.describe,
    ViTModel: single_stream.describe,
    DeiTModel: single_stream.describe,
    Dinov2Model: single_stream.describe,
    Dinov2WithRegistersModel: single_stream.describe,
    CLIPVisionModel: single_stream.describe,
}
# What to do about a backbone that is not there, for people.
ADDING = (
    " Another encoder of one stack of equal layers is one line in FAMILIES (adaptive_ft/models/__init__.py; README.md,"
    " 'Use it on your own model'); fused query-key-value projections, causal models and layers outside the stack are"
    " refused."
)


def describe(model: nn.Module) -> Anatomy:
    """Find the one known backbone in `model` (itself or a part of it) and describe it.

    Raises UserError when there is none, or more than one.
    """
    found = [
        (path, module, family)
        for path, module in model.named_modules()
        for backbone, family in FAMILIES.items()
        if isinstance(module, backbone)
    ]
    if len(found) != 1:
        known = ", ".join(backbone.__name__ for backbone in FAMILIES)
        raise UserError(
            f"a {type(model).__name__} holds {_told(len(found))} that can be adapted; it must hold one of: {known}."
            f"{'' if found else ADDING}"
        )
    path, module, family = found[0]
    return family(module, path)


def _told(number: int) -> str:
    return f"{number} backbones" if number else "no backbone"
