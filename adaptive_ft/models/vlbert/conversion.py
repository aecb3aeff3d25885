"""Checkpoints of the original VL-BERT as weights of VLBertForQuestionAnswering.

The original saves `{"state_dict": ...}` with names like `module.vlbert.encoder.layer.0.output.LayerNorm.gamma`.
Under its adaptive strategies every gated module is there twice: the tuned one, and the frozen one with `parallel_`
in its name.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from adaptive_ft.errors import UserError
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
PARALLEL = "parallel_"
WRAPPER = "module."


@dataclass(frozen=True)
class ConversionReport:
    """What became of a checkpoint: `used` (original name -> ours), `unused` original names, `missing` names of ours.

    A missing weight starts as the model initialises it.
    """

    used: dict[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.used)} weights used, {len(self.unused)} unused, {len(self.missing)} missing"]
        lines += [f"used: {original} -> {ours}" for original, ours in self.used.items()]
        lines += [f"unused: {original}" for original in self.unused]
        lines += [f"missing: {ours}" for ours in self.missing]
        return "\n".join(lines)


def convert_checkpoint(
    source: str | Path | Mapping[str, object],
    config: VLBertConfig | None = None,
    weights: Literal["tuned", "frozen"] = "tuned",
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Weights for VLBertForQuestionAnswering(config) from an original `.model` file or its (state) dict, and a report.

    config: the sizes; None is the base size. weights: which copy to read where an adaptive strategy saved two;
    "frozen" takes the `parallel_` one and falls back on the single copy of all other modules. Beware: a run that the
    original resumed has its frozen copies overwritten by the tuned ones.

    Raises UserError for a file that torch cannot read as plain tensors, for one without weights of VL-BERT, for two
    weights that become the same one, and for a weight of another shape than `config` asks for.
    """
    original = _state_dict(source)
    with torch.device("meta"):
        expected = VLBertForQuestionAnswering(config or VLBertConfig.base()).state_dict()
    names = _chosen_names(original, expected, weights)
    if not names:
        raise UserError(f"{_place(source)} holds no weights of VL-BERT; its names look like {sorted(original)[:2]}.")
    for key, name in names.items():
        if original[key].shape != expected[name].shape:
            raise UserError(
                f"weight '{key}' of {_place(source)} has shape {list(original[key].shape)}, the configuration asks for "
                f"{list(expected[name].shape)}; give the configuration of the checkpoint."
            )
    converted = {name: original[key] for key, name in names.items()}
    unused = tuple(key for key in original if key not in names)
    missing = tuple(name for name in expected if name not in converted)
    return converted, ConversionReport(names, unused, missing)


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
            place = (name, PARALLEL in key)
            if place in found:
                raise UserError(f"'{found[place]}' and '{key}' are two weights for the same place, '{name}'.")
            found[place] = key
    chosen = {}
    for (name, parallel), key in found.items():
        wanted = parallel if weights == "frozen" and (name, True) in found else not parallel
        if wanted:
            chosen[key] = name
    return chosen


def _state_dict(source: str | Path | Mapping[str, object]) -> dict[str, Tensor]:
    """The named tensors of a file or dict, which may hold them under "state_dict"."""
    content = source if isinstance(source, Mapping) else _read(Path(source))
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{_place(source)} holds no state dict, that is tensors by name.")
    weights: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"'{key}' in {_place(source)} is of type {type(value).__name__}; a state dict holds tensors by name."
            )
        weights[key] = value
    return weights


def _read(path: Path) -> object:
    """The content of a torch file, tensors and plain containers only: a pickle could run any code."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint '{path}' (seen from '{Path.cwd()}').")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"cannot read '{path}' as a checkpoint of plain tensors: {reason}") from error


def _place(source: object) -> str:
    """The source in a message."""
    return "the state dict" if isinstance(source, Mapping) else f"checkpoint '{source}'"
