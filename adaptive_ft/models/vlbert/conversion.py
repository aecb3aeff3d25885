"""Checkpoints of the original VL-BERT, and of BERT, as weights of VLBertForQuestionAnswering.

The original saves `{"state_dict": ...}` with names like `module.vlbert.encoder.layer.0.output.LayerNorm.gamma`.
Under its adaptive strategies every gated module is there twice: the tuned one, and the frozen one with `parallel_`
in its name.
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from adaptive_ft.errors import UserError
from adaptive_ft.models.original_checkpoint import Checkpoint, ConversionReport, Source, convert, place, read_checkpoint
from adaptive_ft.models.vlbert.configuration import VLBertConfig
from adaptive_ft.models.vlbert.modeling import VLBertForQuestionAnswering

# How names begin in the original and here; the first that fits is taken. One that is not listed is not read.
PREFIXES = {
    "image_feature_extractor.obj_downsample.1.": "vlbert.embeddings.region_projection.dense.",
    "object_linguistic_embeddings.": "vlbert.embeddings.region_embedding.",
    "vlbert.word_embeddings.": "vlbert.embeddings.word_embeddings.",
    "vlbert.end_embedding.": "vlbert.embeddings.end_embedding.",
    "vlbert.position_embeddings.": "vlbert.embeddings.position_embeddings.",
    "vlbert.token_type_embeddings.": "vlbert.embeddings.token_type_embeddings.",
    "vlbert.embedding_LayerNorm.": "vlbert.embeddings.LayerNorm.",
    "vlbert.visual_ln_text.": "vlbert.embeddings.visual_text.LayerNorm.",
    "vlbert.visual_ln_object.": "vlbert.embeddings.visual_region.LayerNorm.",
    "vlbert.visual_1x1_text.": "vlbert.embeddings.visual_text.dense.",
    "vlbert.visual_1x1_object.": "vlbert.embeddings.visual_region.dense.",
    "vlbert.visual_scale_text": "vlbert.embeddings.visual_text.scale",
    "vlbert.visual_scale_object": "vlbert.embeddings.visual_region.scale",
    "vlbert.encoder.": "vlbert.encoder.",
    # The pretraining checkpoint holds the transform of its word head, where the answer head starts from.
    "vlbert.mlm_head.predictions.transform.": "answer_head.transform.",
    "final_mlp.0.": "answer_head.transform.",
    "final_mlp.2.": "answer_head.classifier.",
}
ENCODER = "vlbert.encoder."
PARALLEL = "parallel_"
WRAPPER = "module."


def convert_checkpoint(
    source: Source,
    config: VLBertConfig | None = None,
    weights: Literal["tuned", "frozen"] = "tuned",
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Weights for VLBertForQuestionAnswering(config) from an original `.model` file or its (state) dict, and a report.

    config: the sizes; None is the base size. weights: which copy to read where an adaptive strategy saved two;
    "frozen" takes the `parallel_` one and falls back on the single copy of all other modules. Beware: a run that the
    original resumed has its frozen copies overwritten by the tuned ones.

    Raises UserError for a file that torch cannot read as plain tensors, for one without weights of VL-BERT or without
    some of the encoder's, for two weights that become the same one, and for a weight of another shape than `config`
    asks for.
    """
    # The original's factors have no axis, ours have one.
    read = read_checkpoint(source)
    original = {key: value if value.dim() else value.unsqueeze(0) for key, value in read.weights.items()}
    with torch.device("meta"):
        expected = VLBertForQuestionAnswering(config or VLBertConfig.base()).state_dict()
    names = _chosen_names(original, expected, weights)
    converted, report = convert(Checkpoint(original, read.unread), names, expected, source, "VL-BERT")
    lost = [name for name in report.missing if name.startswith(ENCODER)]
    if lost:
        raise UserError(
            f"{place(source)} lacks {len(lost)} weights of the backbone, for instance '{lost[0]}'; give the "
            "configuration of the checkpoint."
        )
    return converted, report


def convert_bert(bert: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ConversionReport]:
    """Weights of a VL-BERT that starts from a BERT, and a report.

    bert: the state dict of transformers' BertForPreTraining (a part of it is enough). start: the VL-BERT's own, of
    the same sizes: BERT knows two types of tokens, and the third row is taken from here. The transform of the word
    head becomes that of the answer head; the pooler and the rest of the heads are not read.

    Raises UserError when no weight of BERT is there, and for a weight of another shape.
    """
    types = "bert.embeddings.token_type_embeddings.weight"
    original = dict(bert)
    names = {key: name for key in bert if (name := _named_in_bert(key)) in start}
    if types in names:
        rest = start[names[types]][len(bert[types]) :]
        original[types] = torch.cat([bert[types], rest.to(bert[types])])
    return convert(Checkpoint(original), names, start, bert, "BERT")


def _named_in_bert(key: str) -> str:
    """Our name for a weight of BertForPreTraining; those without a place here get a name that no model has."""
    return key.replace("bert.", "vlbert.", 1).replace("cls.predictions.transform.", "answer_head.transform.", 1)


def renamed(key: str) -> str | None:
    """Our name for the weight that the original calls `key`, in any of its forms; None for one we have no place for."""
    bare = key.removeprefix(WRAPPER).replace(PARALLEL, "")
    bare = re.sub(r"\.gamma$", ".weight", bare)
    bare = re.sub(r"\.beta$", ".bias", bare)
    for theirs, ours in PREFIXES.items():
        if bare.startswith(theirs):
            return ours + bare.removeprefix(theirs)
    return None


def _chosen_names(original: Mapping[str, Tensor], expected: Mapping[str, Tensor], weights: str) -> dict[str, str]:
    """Original name -> ours, for the weights to read: of two copies the asked one."""
    if weights not in ("tuned", "frozen"):
        raise UserError(f"weights is '{weights}'; it must be 'tuned' or 'frozen'.")
    found: dict[tuple[str, bool], str] = {}
    for key in original:
        name = renamed(key)
        if name is not None and name in expected:
            copy = (name, PARALLEL in key)
            if copy in found:
                raise UserError(f"'{found[copy]}' and '{key}' are two weights for the same place, '{name}'.")
            found[copy] = key
    chosen = {}
    for (name, parallel), key in found.items():
        wanted = parallel if weights == "frozen" and (name, True) in found else not parallel
        if wanted:
            chosen[key] = name
    return chosen
