"""Checkpoints of the original LXMERT as weights of LxmertForQuestionAnswering.

Pretraining saves `bert.*`, `answer_head.*`, `cls.*` and `obj_predict_head.*` (model_LXRT.pth); fine-tuning on VQA saves
`lxrt_encoder.model.bert.*` and `logit_fc.*`, and under an adaptive strategy every gated module twice: the tuned one,
and the frozen one with `parallel_` in its name, which is not read.
"""

import torch
from torch import Tensor
from transformers import LxmertConfig, LxmertForQuestionAnswering

from adaptive_ft.errors import UserError
from adaptive_ft.models.original_checkpoint import ConversionReport, Source, convert, place, read_checkpoint

# How names begin in the original and here; one that is not listed is not read.
PREFIXES = {
    "lxrt_encoder.model.bert.": "lxmert.",
    "bert.": "lxmert.",
    "answer_head.": "answer_head.",
    "logit_fc.": "answer_head.logit_fc.",
}
# In front of a model that ran on several GPUs, or of its part.
WRAPPER = "module."


def renamed(key: str) -> str | None:
    """Our name for the weight that the original calls `key`; None for one without a place here."""
    bare = key.replace(WRAPPER, "")
    for theirs, ours in PREFIXES.items():
        if bare.startswith(theirs):
            return ours + bare.removeprefix(theirs)
    return None


def convert_lxmert(source: Source, config: LxmertConfig) -> tuple[dict[str, Tensor], ConversionReport]:
    """Weights for LxmertForQuestionAnswering(config) from an original file or its state dict, and a report.

    Raises UserError for a file that torch cannot read as plain tensors, for one without weights of LXMERT, for two
    weights that become the same one, and for a weight of another shape than `config` asks for.
    """
    original = read_checkpoint(source)
    with torch.device("meta"):
        expected = LxmertForQuestionAnswering(config).state_dict()
    found: dict[str, str] = {}
    for key in original.weights:
        name = renamed(key)
        if name is not None and name in expected:
            if name in found:
                raise UserError(f"'{found[name]}' and '{key}' of {place(source)} are two weights for '{name}'.")
            found[name] = key
    return convert(original, {key: name for name, key in found.items()}, expected, source, "LXMERT")
