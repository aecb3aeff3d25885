"""Activation checkpointing for LXMERT, whose layers transformers has no switch for.

A layer that is a `GradientCheckpointingLayer` keeps only its inputs for the backward pass and runs once more when it
comes there, if its model was told so (`gradient_checkpointing_enable`). All families' layers are, except LXMERT's.
"""

from torch import nn
from transformers import LxmertPreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.lxmert.modeling_lxmert import LxmertLayer, LxmertXLayer


class RecomputableLayer(GradientCheckpointingLayer, LxmertLayer):
    """A language or region layer with transformers' switch; off, it is the plain layer."""


class RecomputableXLayer(GradientCheckpointingLayer, LxmertXLayer):
    """A cross layer with transformers' switch; both uses of its shared cross-attention lie inside what runs again."""


RECOMPUTABLE: dict[type[nn.Module], type[nn.Module]] = {
    LxmertLayer: RecomputableLayer,
    LxmertXLayer: RecomputableXLayer,
}
SUPPORTED = "supports_gradient_checkpointing"  # the word by which transformers refuses the switch
PLAIN = {recomputable: plain for plain, recomputable in RECOMPUTABLE.items()}


def allow_recomputing(model: nn.Module) -> None:
    """Give every LXMERT layer in `model` the switch, in place; weights, names and results stay."""
    _turn(model, RECOMPUTABLE)
    for module in model.modules():
        if isinstance(module, LxmertPreTrainedModel):
            vars(module)[SUPPORTED] = True


def undo_recomputing(model: nn.Module) -> None:
    """Give every layer that `allow_recomputing` has changed in `model` its own class back."""
    _turn(model, PLAIN)
    for module in model.modules():
        if isinstance(module, LxmertPreTrainedModel):
            vars(module).pop(SUPPORTED, None)


def _turn(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]
