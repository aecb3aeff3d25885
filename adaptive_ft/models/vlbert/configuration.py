"""Sizes and options of VL-BERT, with the two sizes of the original as presets."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class VLBertConfig(PreTrainedConfig):
    """Configuration of VLBertModel; the defaults are the original's base size.

    visual_feat_dim: width of the precomputed region features. visual_pos_dim: values of a box, always 4.
    coordinate_waves: wavelengths that encode each of them, by a sine and a cosine. visual_size: width of a projected
    region; None is hidden_size, any other value adds a Linear to hidden_size. visual_ln: a LayerNorm scales what
    a token shows; False puts one learned factor in its place. visual_scale_init: where its weight (or the factor)
    starts; 0 hides the picture until training or a checkpoint opens it. mask_token_id: the token whose hidden
    state answers. num_answers: outputs of the answer head.
    """

    model_type = "vl_bert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 3
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    visual_feat_dim: int = 2048
    visual_pos_dim: int = 4
    coordinate_waves: int = 256
    visual_size: int | None = None
    visual_ln: bool = True
    visual_scale_init: float | int = 0.0
    region_dropout_prob: float | int = 0.1
    classifier_dropout: float | int = 0.1
    num_answers: int = 3129
    pad_token_id: int | None = 0
    mask_token_id: int = 103
    # What BERT's layers ask for beside the sizes: an encoder without a cache or cross attention.
    is_decoder: bool = False
    add_cross_attention: bool = False

    def validate_vl_bert(self) -> None:
        """Refuse, with transformers' own checks, numbers that no VL-BERT can have; raises ValueError."""
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id is {self.mask_token_id}, but the vocabulary has words 0 to {self.vocab_size - 1}: give "
                "the tokenizer's mask_token_id, at which the model answers."
            )
        if self.type_vocab_size < 3:
            raise ValueError(
                f"type_vocab_size is {self.type_vocab_size}; it must be at least 3: question, answer, regions."
            )
        if self.visual_pos_dim != 4:
            raise ValueError(f"visual_pos_dim is {self.visual_pos_dim}; a box has 4 values: x1, y1, x2, y2.")

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """12 layers of width 768 with 12 heads; `changes` take the place of single values."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: Any) -> Self:
        """24 layers of width 1024 with 16 heads; `changes` take the place of single values."""
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        return cls(**{**sizes, **changes})
