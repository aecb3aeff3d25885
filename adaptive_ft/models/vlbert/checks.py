"""What VL-BERT cannot compute is refused in one sentence, before PyTorch stumbles over it or answers with nothing.

Shape suffixes: B samples, L text tokens, R regions, F region features.
"""

import torch
from torch import Tensor

from adaptive_ft.models.vlbert.configuration import VLBertConfig

OTHER_POSITIONS = 2  # behind the text's: one of all regions, one of [END]


def check_asked(config: VLBertConfig, visual_feats_BRF: Tensor, output_attentions: bool | None) -> None:
    """Refuse pictures without any region, and attentions that are not kept; looks at no values.

    Raises:
        ValueError: as said; transformers' own setter of `output_attentions` refuses it in the same way.
    """
    kind = config._attn_implementation
    if (config.output_attentions if output_attentions is None else output_attentions) and kind != "eager":
        raise ValueError(
            f"'{kind}' attention keeps no probabilities: for output_attentions call"
            " model.set_attn_implementation('eager') first."
        )
    if visual_feats_BRF.shape[1] == 0:
        raise ValueError(
            f"visual_feats {[*visual_feats_BRF.shape]} hold no region: give at least region 0, the whole picture."
        )


def check_texts(config: VLBertConfig, answers_BL: Tensor, text_mask_BL: Tensor) -> None:
    """Refuse texts without an answer's place, or without positions left for the regions and [END].

    answers_BL: where an answer may be read; text_mask_BL: where tokens are real. Looks at values, therefore on a CPU
    only and not when compiled: another device would have to be waited for.

    Raises:
        ValueError: as said; names the first sample, or the longest.
    """
    if answers_BL.device.type != "cpu" or torch.compiler.is_compiling():
        return
    without = (~answers_BL.any(dim=1)).nonzero().flatten().tolist()
    if without:
        raise ValueError(
            f"{len(without)} of {len(answers_BL)} texts, the first is sample {without[0]}, hold no token "
            f"{config.mask_token_id}, at which VL-BERT answers: write [CLS] question [SEP] [MASK] [SEP], and give the "
            "configuration the tokenizer's mask_token_id."
        )
    lengths = text_mask_BL.bool().sum(dim=1).tolist()
    longest, positions = max(lengths), config.max_position_embeddings
    if longest + OTHER_POSITIONS > positions:
        raise ValueError(
            f"sample {lengths.index(longest)} has {longest} tokens, and there are {positions} positions: cut texts at"
            f" {positions - OTHER_POSITIONS}, the regions and [END] take the other {OTHER_POSITIONS}."
        )
