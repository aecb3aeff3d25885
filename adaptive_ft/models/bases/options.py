"""What a base model is made from: the user's options and what the data asks of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from adaptive_ft.data.format.manifest import QUESTIONS
from adaptive_ft.errors import UserError


@dataclass
class ModelConfig:
    """The base model: a checkpoint by name, or random weights of the sizes below."""

    name: str | None = None
    """Folder or hub id of a checkpoint, whose sizes and dropout then take the place of all options below; or a file
    of the original project (model_LXRT.pth, *.model), whose sizes the options below must name."""
    type: str | None = None
    """Family of random weights or of an original file: lxmert (default), vl_bert, vit. A folder or hub id names its
    own; vl_bert also starts from a BERT."""
    answers: str | None = None
    """JSON list of the answers in the order of the checkpoint's answer head: its rows are taken over by text."""
    first_layers: bool = False
    """Original files: one that has more layers than the options below gives its first ones, and is not refused."""
    hidden_size: int = 768
    """Width of the model."""
    num_attention_heads: int = 12
    """Heads per attention module."""
    intermediate_size: int = 3072
    """Width inside the FFNs."""
    language_layers: int = 9
    """LXMERT: layers on the question alone."""
    region_layers: int = 5
    """LXMERT: layers on the regions alone."""
    cross_layers: int = 5
    """LXMERT: layers on both."""
    layers: int = 12
    """Layers of all other families."""
    image_size: int = 224
    """ViT: side of the pictures in pixels."""
    patch_size: int = 16
    """ViT: side of a patch in pixels."""
    visual_scale_init: float = 0.0
    """VL-BERT: first weight of the LayerNorms behind which tokens see the regions; 0 hides the picture until training
    opens it."""
    coordinate_waves: int = 256
    """VL-BERT: wavelengths, each as a sine and a cosine, that stand for one of a box's four values; many drown region
    features of few values."""
    max_position_embeddings: int = 512
    """Longest question, in tokens."""
    initializer_range: float = 0.02
    """Standard deviation of the random weights."""
    hidden_dropout: float = 0.1
    """Dropout probability of embeddings and sub-layer outputs."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights."""

    def check_heads(self) -> None:
        """Refuse a width that does not split into the heads; raises UserError."""
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )


@dataclass(frozen=True)
class DataFacts:
    """What the data asks of a base model; 0 and None where the data has no regions or no words.

    visual_feat_dim: values of a region's feature. vocab_size: words of the tokenizer. mask_token_id: its [MASK].
    content: what an example is, as the manifest says it.
    """

    answer_table: Sequence[str]
    visual_feat_dim: int = 0
    vocab_size: int = 0
    mask_token_id: int | None = None
    content: str = QUESTIONS

    @property
    def num_answers(self) -> int:
        """Outputs of the answer head."""
        return len(self.answer_table)


Maker = Callable[[ModelConfig, DataFacts], PreTrainedModel]


@dataclass(frozen=True)
class Family:
    """How base models of one kind are made, in float32 with one output per answer.

    random: of the sizes in the options. pretrained: from the folder or hub id `config.name`, of this family's type.
    original: from the file `config.name` of the original project, or None where there is none.
    started_from: from a folder or hub id of another type, by that type.
    content: what the examples are that its models read, as a manifest says it.
    All raise UserError for what cannot be read or does not fit the data.
    """

    random: Maker
    pretrained: Maker
    original: Maker | None = None
    started_from: Mapping[str, Maker] = field(default_factory=dict)
    content: str = QUESTIONS
