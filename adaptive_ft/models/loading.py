"""The base model of a run: pretrained weights from a folder or the hub, or random weights of chosen sizes."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, LxmertConfig, LxmertForQuestionAnswering

from adaptive_ft.errors import UserError
from adaptive_ft.models.lxmert_attention import use_sdpa

logger = logging.getLogger(__name__)

HEAD = "answer_head."
# How names begin that are never a hub's; data/ and runs/ are where this project's own programs write.
FOLDERS = (".", "/", "~", "data/", "runs/")
UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)


@dataclass
class ModelConfig:
    """The base model: a checkpoint by name, or random weights of the sizes below."""

    name: str | None = None
    """Folder or hub id of a checkpoint; its sizes and dropout then take the place of all options below."""
    hidden_size: int = 768
    """Width of the model."""
    num_attention_heads: int = 12
    """Heads per attention module."""
    intermediate_size: int = 3072
    """Width inside the FFNs."""
    language_layers: int = 9
    """Layers on the question alone."""
    region_layers: int = 5
    """Layers on the regions alone."""
    cross_layers: int = 5
    """Layers on both."""
    max_position_embeddings: int = 512
    """Longest question, in tokens."""
    initializer_range: float = 0.02
    """Standard deviation of the random weights."""
    hidden_dropout: float = 0.1
    """Dropout probability of embeddings and sub-layer outputs."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights."""


def build_base(
    config: ModelConfig, *, num_answers: int, visual_feat_dim: int, vocab_size: int
) -> LxmertForQuestionAnswering:
    """The base model in float32 with `num_answers` outputs, for region features of `visual_feat_dim` values.

    Its attention is the fused one (`use_sdpa`). Raises UserError when the checkpoint cannot be read, lacks
    backbone weights, or does not fit the data. Weights of the answer head that the checkpoint does not have
    start at random, and the log says so.
    """
    if config.name is None:
        model = LxmertForQuestionAnswering(_random_config(config, num_answers, visual_feat_dim, vocab_size))
    else:
        _check_fits(config.name, visual_feat_dim, vocab_size)
        model = _pretrained(config.name, num_answers)
    use_sdpa(model)
    return model


def _pretrained(name: str, num_answers: int) -> LxmertForQuestionAnswering:
    """The checkpoint in float32, its answer head new where it has another one."""
    model, report = read_pretrained(
        LxmertForQuestionAnswering.from_pretrained,
        name,
        num_qa_labels=num_answers,
        # Without it the weights keep the type they were saved in; training owns float32 masters.
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _check_report(name, report)
    return model


def _random_config(config: ModelConfig, num_answers: int, visual_feat_dim: int, vocab_size: int) -> LxmertConfig:
    """Our options in the words of transformers."""
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}."
        )
    return LxmertConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        l_layers=config.language_layers,
        r_layers=config.region_layers,
        x_layers=config.cross_layers,
        max_position_embeddings=config.max_position_embeddings,
        initializer_range=config.initializer_range,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        visual_feat_dim=visual_feat_dim,
        num_qa_labels=num_answers,
    )


def may_be_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id, a word or owner/word; anything else can only be a folder."""
    return not name.startswith(FOLDERS) and not name.endswith("/") and name.count("/") <= 1


def read_pretrained(reader: Callable[..., Any], name: str, **options: Any) -> Any:
    """Run one of transformers' readers and turn its failures into one sentence."""
    if not Path(name).is_dir() and not may_be_hub_id(name):
        raise UserError(f"model folder '{name}' does not exist (seen from '{Path.cwd()}').")
    try:
        return reader(name, **options)
    except UNREADABLE as error:
        place = "folder" if Path(name).is_dir() else f"hub id (there is no such folder in '{Path.cwd()}')"
        reason = " ".join(str(error).split())
        raise UserError(f"cannot load the model '{name}', read as a {place}: {reason}") from error


def _check_fits(name: str, visual_feat_dim: int, vocab_size: int) -> None:
    """Refuse a checkpoint of another family or for other data, before its weights are read."""
    found = read_pretrained(AutoConfig.from_pretrained, name)
    if not isinstance(found, LxmertConfig):
        raise UserError(f"model '{name}' is of type '{found.model_type}'; only 'lxmert' can be adapted.")
    if found.visual_feat_dim != visual_feat_dim:
        raise UserError(
            f"model '{name}' reads region features of {found.visual_feat_dim} values, the data has {visual_feat_dim}."
        )
    if found.vocab_size != vocab_size:
        raise UserError(
            f"model '{name}' has a vocabulary of {found.vocab_size} words, the tokenizer of the data has {vocab_size}."
        )


def _check_report(name: str, report: Mapping[str, Any]) -> None:
    """Only the answer head may be new: a frozen half of random weights would be worthless."""
    new = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    backbone = [key for key in new if not key.startswith(HEAD)]
    if backbone:
        raise UserError(f"model '{name}' lacks {len(backbone)} weights of the backbone, for instance '{backbone[0]}'.")
    if new:
        logger.warning("Newly initialised weights of the answer head, not found in '%s': %s", name, ", ".join(new))
