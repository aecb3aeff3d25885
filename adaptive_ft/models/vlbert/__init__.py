"""VL-BERT (VQA form, precomputed regions) in the manner of transformers; checkpoints of the original convert."""

from transformers import AutoConfig, AutoModel

from adaptive_ft.models.vlbert.configuration import VLBertConfig
from adaptive_ft.models.vlbert.conversion import convert_bert, convert_checkpoint
from adaptive_ft.models.vlbert.modeling import (
    VLBertForQuestionAnswering,
    VLBertForQuestionAnsweringOutput,
    VLBertModel,
)

__all__ = [
    "VLBertConfig",
    "VLBertForQuestionAnswering",
    "VLBertForQuestionAnsweringOutput",
    "VLBertModel",
    "convert_bert",
    "convert_checkpoint",
]

# With it AutoConfig reads the folder of a saved VL-BERT.
AutoConfig.register(VLBertConfig.model_type, VLBertConfig, exist_ok=True)
AutoModel.register(VLBertConfig, VLBertModel, exist_ok=True)
