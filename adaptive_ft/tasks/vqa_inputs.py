"""How each family of base models is asked a question about a picture: raw examples -> arguments of its forward.

Shape suffixes: B questions, L tokens per question, N region boxes, R = N + 1 regions with the whole picture,
D features per box, 4 = x1 y1 x2 y2, 2 = width height.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.errors import UserError

# [CLS], one word, [SEP], [MASK], [SEP].
LEAST_PAIR = 5


class VqaInputs(Protocol):
    """Makes the inputs of one family.

    float32_inputs: those that stay float32 whatever the model computes in. other_positions: places of the model's
    position table that its row of tokens needs beside the question's.
    """

    float32_inputs: ClassVar[tuple[str, ...]]
    other_positions: ClassVar[int]

    def __call__(self, raw: RawBatch) -> dict[str, Tensor]:
        """Arguments of the base model's forward, on the CPU."""

    def visual_feats(self, features_BND: Tensor, box_mask_BN: Tensor) -> Tensor:
        """The argument `visual_feats` for these features of regions, differentiable in them, on their device."""


class LxmertInputs:
    """[CLS] question [SEP], cut or padded to exactly `max_question_length` tokens, and the regions as they are."""

    float32_inputs: ClassVar[tuple[str, ...]] = ()
    other_positions: ClassVar[int] = 0

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_question_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_question_length = max_question_length

    def __call__(self, raw: RawBatch) -> dict[str, Tensor]:
        """Token numbers, mask and types [B, L]; features [B, N, D] and corners [B, N, 4] as shares of the picture.

        The mask of regions is there only where one is padding.
        """
        encoded = self._tokenizer(
            [question.text for question in raw.questions],
            padding="max_length",
            truncation=True,
            max_length=self._max_question_length,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        inputs = {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            # One segment only: LXMERT was pretrained with type 0 on every token.
            "token_type_ids": torch.zeros_like(encoded["input_ids"]),
            "visual_feats": self.visual_feats(raw.features_BND, raw.box_mask_BN),
            "visual_pos": _shares(raw.boxes_BN4, raw.sizes_B2, raw.box_mask_BN),
        }
        if not raw.box_mask_BN.all():
            inputs["visual_attention_mask"] = raw.box_mask_BN.long()
        return inputs

    def visual_feats(self, features_BND: Tensor, box_mask_BN: Tensor) -> Tensor:
        """The features as they are: [B, N, D]."""
        return features_BND


class VLBertInputs:
    """[CLS] question [SEP] [MASK] [SEP], and the regions behind the whole picture.

    Only the question is cut where the row would be longer than `max_question_length`. Region 0 is the whole picture,
    with the mean of the regions' features. Raises UserError for a length without room for a word and for a tokenizer
    that cannot write the pair.
    """

    # The model takes sines of 100 x the shares: bfloat16 would move them by up to a fifth of a radian.
    float32_inputs: ClassVar[tuple[str, ...]] = ("visual_pos",)
    # The regions' common place and [END]'s.
    other_positions: ClassVar[int] = 2

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_question_length: int) -> None:
        if max_question_length < LEAST_PAIR:
            raise UserError(
                f"--task.max_question_length is {max_question_length}; VL-BERT's [CLS] question [SEP] [MASK] [SEP]"
                f" needs at least {LEAST_PAIR}."
            )
        self._tokenizer = tokenizer
        self._max_question_length = max_question_length
        pair = tokenizer("a", tokenizer.mask_token)["input_ids"] if tokenizer.mask_token else []
        if pair[-3:] != [tokenizer.sep_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id]:
            raise UserError(
                "VL-BERT reads [CLS] question [SEP] [MASK] [SEP], and the tokenizer does not write this pair: give"
                " another one with --data.tokenizer."
            )

    def __call__(self, raw: RawBatch) -> dict[str, Tensor]:
        """Token numbers, mask and types [B, L]; features [B, R, D], corners [B, R, 4] as shares, and mask [B, R]."""
        encoded = self._tokenizer(
            [question.text for question in raw.questions],
            [self._tokenizer.mask_token] * len(raw.questions),
            padding="max_length",
            truncation="only_first",
            max_length=self._max_question_length,
            return_attention_mask=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        mask_BR = torch.nn.functional.pad(raw.box_mask_BN, (1, 0), value=True)
        corners_BR4 = torch.cat([_whole(raw.sizes_B2), _inside(raw.boxes_BN4, raw.sizes_B2)], dim=1)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "token_type_ids": encoded["token_type_ids"],
            "visual_feats": self.visual_feats(raw.features_BND, raw.box_mask_BN),
            "visual_pos": _shares(corners_BR4, raw.sizes_B2, mask_BR),
            "visual_attention_mask": mask_BR.long(),
        }

    def visual_feats(self, features_BND: Tensor, box_mask_BN: Tensor) -> Tensor:
        """The mean of the real regions, then the features: float32 [B, R, D]."""
        features_BND, mask_BN1 = features_BND.float(), box_mask_BN.unsqueeze(2)
        mean_B1D = (features_BND * mask_BN1).sum(1, keepdim=True) / mask_BN1.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([mean_B1D, features_BND], dim=1)


def _whole(sizes_B2: Tensor) -> Tensor:
    """The box [0, 0, w-1, h-1] of each picture: [B, 1, 4]."""
    last_B2 = (sizes_B2 - 1).clamp(min=0)
    return torch.cat([torch.zeros_like(last_B2), last_B2], dim=1).unsqueeze(1)


def _inside(boxes_BN4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Corners moved into [0, w-1] x [0, h-1], as the original's."""
    return boxes_BN4.clamp(min=0).minimum(_whole(sizes_B2)[..., 2:].repeat(1, 1, 2))


def _shares(boxes_BN4: Tensor, sizes_B2: Tensor, mask_BN: Tensor) -> Tensor:
    """Corners as shares of the picture's width and height, in [0, 1]."""
    sizes_B14 = sizes_B2.repeat(1, 2).unsqueeze(1).clamp(min=1)
    # Detectors may round a corner past the border; padding boxes stay 0, even without a picture size.
    return torch.where(mask_BN.unsqueeze(2), boxes_BN4 / sizes_B14, 0.0).clamp(0.0, 1.0)
