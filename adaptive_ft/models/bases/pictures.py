"""Base models that read pictures: ViT from random weights; ViT, DeiT, DINOv2 and CLIP's vision tower pretrained."""

import logging
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.options import DataFacts, Family, ModelConfig
from adaptive_ft.models.bases.reading import check_report, read_pretrained

logger = logging.getLogger(__name__)

HEAD = "classifier."
INTERPOLATING = ("dinov2", "dinov2_with_registers")
"""Model types that take pictures of any size without being told to."""

HEAD_SPREAD = 0.02  # the standard deviation of new heads in transformers


def random_vit(config: ModelConfig, facts: DataFacts) -> ViTForImageClassification:
    """A ViT of the sizes in `config` with random weights."""
    config.check_heads()
    if config.image_size % config.patch_size:
        raise UserError(f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}.")
    sizes = ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        initializer_range=config.initializer_range,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        **_class_names(facts),
    )
    return ViTForImageClassification(sizes)


def no_random(config: ModelConfig, facts: DataFacts) -> PreTrainedModel:
    """Refuse random weights of a family of which only checkpoints are of use."""
    raise UserError(f"--model.type {config.type} needs a checkpoint (--model.name); for random weights take vit.")


def pretrained(config: ModelConfig, facts: DataFacts) -> PreTrainedModel:
    """The checkpoint with one output per class of the data; its head is new unless it names the same classes."""
    name = str(config.name)
    found = read_pretrained(AutoConfig.from_pretrained, name)
    image_size_of(found, name)
    model, report = read_pretrained(
        AutoModelForImageClassification.from_pretrained,
        name,
        # Without it the weights keep the type they were saved in; training owns float32 masters.
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        # The class with one head: the published distilled DeiT name one with two.
        architectures=[],
        output_loading_info=True,
        **_class_names(facts),
    )
    check_report(name, report, HEAD)
    fitted: PreTrainedModel = model
    if not any(key.startswith(HEAD) for key in _new_keys(report)) and _classes(found) != list(facts.answer_table):
        _renew_head(fitted.get_submodule(HEAD.rstrip(".")))
        logger.warning("The answer head of '%s' names other classes: newly initialised.", name)
    return fitted


def image_size_of(config: Any, name: str = "") -> int:
    """The side, in pixels, of the pictures a model of this configuration takes; raises UserError if not square."""
    # A model of pictures and texts (CLIP) keeps the configuration of its picture side inside its own.
    size = getattr(config, "vision_config", config).image_size
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UserError(f"model '{name}' takes pictures of {size} pixels; only square ones can be fed.")
    return int(sides.pop())


def fed_side(config: Any, asked: int, name: str = "") -> int:
    """The side, in pixels, of the pictures to feed where the checkpoint's image processor makes some of side `asked`.

    It is the model's own, unless the model interpolates its positions: the published DINOv2 were pretrained up to 518
    pixels, and their processors make 224. Raises UserError if the model's pictures are not square.
    """
    own = image_size_of(config, name)
    return asked if config.model_type in INTERPOLATING and asked >= config.patch_size else own


def _class_names(facts: DataFacts) -> dict[str, Any]:
    names = list(facts.answer_table)
    return {"id2label": dict(enumerate(names)), "label2id": {label: number for number, label in enumerate(names)}}


def _classes(config: Any) -> list[str]:
    return [label for _, label in sorted(config.id2label.items())]


def _new_keys(report: dict[str, Any]) -> set[str]:
    return {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}


def _renew_head(head: Any) -> None:
    nn.init.normal_(head.weight, std=HEAD_SPREAD)
    nn.init.zeros_(head.bias)


VIT = Family(random_vit, pretrained, content=LABELLED_PICTURES)
CHECKPOINTS_ONLY = Family(no_random, pretrained, content=LABELLED_PICTURES)
