"""VL-BERT: one BERT encoder over the words of a question and the regions of its picture.

    config = VLBertConfig.base(num_answers=3129)
    model = VLBertForQuestionAnswering(config)
    text = tokenizer(question, "[MASK]", return_tensors="pt")      # [CLS] question [SEP] [MASK] [SEP], types 0 and 1
    model(**text, visual_feats=feats, visual_pos=boxes).question_answering_score      # [B, num_answers]

Regions come as precomputed features with boxes; the original's convolutional network on pixels is out of scope.
Region 0 is the whole picture: what it shows is added to every word. Shape suffixes: B samples, L text tokens,
R regions, T = L + R + 1 places of a packed row, F region features, E hidden size, A answers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import (
    BertEncoder,
    BertLayer,
    BertPredictionHeadTransform,
    BertSelfAttention,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from adaptive_ft.models.vlbert.checks import check_asked, check_texts
from adaptive_ft.models.vlbert.configuration import VLBertConfig
from adaptive_ft.models.vlbert.embeddings import VisualLayerNorm, VisualScale, VLBertEmbeddings


@dataclass
class VLBertForQuestionAnsweringOutput(ModelOutput):
    """`question_answering_score`: logits [B, A]; `loss`: a float32 scalar, when labels are given.

    hidden_states: tuple of [B, T, E]; attentions: tuple of [B, heads, T, T]; both when asked for.
    """

    loss: Tensor | None = None
    question_answering_score: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VLBertPreTrainedModel(PreTrainedModel):
    """Loading, saving and initial weights."""

    config_class = VLBertConfig
    base_model_prefix = "vlbert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _no_split_modules = ("VLBertEmbeddings", "BertLayer")
    _can_record_outputs = {"hidden_states": BertLayer, "attentions": BertSelfAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisualLayerNorm):
            init.constant_(module.weight, self.config.visual_scale_init)
        elif isinstance(module, VisualScale) and module.LayerNorm is None:
            init.constant_(module.scale, self.config.visual_scale_init)


class VLBertModel(VLBertPreTrainedModel):
    """Embeddings and encoder; the pooled output is the hidden state of the text's [MASK]."""

    def __init__(self, config: VLBertConfig) -> None:
        super().__init__(config)
        self.embeddings = VLBertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        visual_feats: Tensor,
        visual_pos: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Hidden states [B, T, E] of the packed rows, and the one of the answer's place [B, E].

        input_ids [B, L]: [CLS] question [SEP] [MASK] [SEP]. visual_feats [B, R, F]. visual_pos [B, R, 4]: corners
        x1, y1, x2, y2 as shares of the picture's width and height. Masks [B, L] and [B, R]: 1 where there is a token
        or a region, None for everywhere. token_type_ids [B, L]: None for 0 everywhere. output_attentions (of "eager"
        attention only) and output_hidden_states: whether to return them too; the decorator does it. visual_pos stays
        float32 whatever the weights are: bfloat16 would move its waves by up to a fifth of a radian.

        The answer's place is the last real [MASK]. ValueError for no region and for attentions that are not kept; on a
        CPU, if not compiled, also for too few positions and for rows without [MASK], which else pool their first token.
        """
        check_asked(self.config, visual_feats, output_attentions)
        text_mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        answers_BL = (input_ids == self.config.mask_token_id) & text_mask_BL.bool()
        check_texts(self.config, answers_BL, text_mask_BL)
        if visual_attention_mask is None:
            visual_attention_mask = torch.ones_like(visual_pos[..., 0], dtype=torch.bool)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        embedded_BTE, mask_BT, order_BT = self.embeddings(
            input_ids, token_type_ids, text_mask_BL, visual_feats, visual_pos, visual_attention_mask
        )
        attention_bias = create_bidirectional_mask(self.config, embedded_BTE, mask_BT)
        hidden_BTE = self.encoder(embedded_BTE, attention_mask=attention_bias).last_hidden_state
        answers_BT = nn.functional.pad(answers_BL, (0, mask_BT.shape[1] - answers_BL.shape[1])).gather(1, order_BT)
        places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        answer_B = (answers_BT * places_T).amax(dim=1)
        pooled_BE = hidden_BTE[torch.arange(len(hidden_BTE), device=hidden_BTE.device), answer_B]
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BTE, pooler_output=pooled_BE)


class VLBertAnswerHead(nn.Module):
    """Linear, GELU, LayerNorm; dropout; Linear to one logit per answer."""

    def __init__(self, config: VLBertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_answers)

    def forward(self, pooled_BE: Tensor) -> Tensor:
        """Logits [B, A]."""
        return self.classifier(self.dropout(self.transform(pooled_BE)))


class VLBertForQuestionAnswering(VLBertPreTrainedModel):
    """VL-BERT with a choice of one answer out of a table."""

    def __init__(self, config: VLBertConfig) -> None:
        super().__init__(config)
        self.vlbert = VLBertModel(config)
        self.answer_head = VLBertAnswerHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        visual_feats: Tensor,
        visual_pos: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VLBertForQuestionAnsweringOutput:
        """Logits [B, A] as `question_answering_score`; inputs and options as in VLBertModel.forward.

        labels: soft scores [B, A] in [0, 1]; the loss is binary cross-entropy, mean over samples and answers, times A.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        outputs = self.vlbert(
            input_ids,
            visual_feats,
            visual_pos,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            visual_attention_mask=visual_attention_mask,
            return_dict=True,
            # What is left open the configuration answers; None would say no.
            **{name: value for name, value in asked.items() if value is not None},
        )
        logits_BA = self.answer_head(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(logits_BA.float(), labels.float()) * labels.shape[1]
        return VLBertForQuestionAnsweringOutput(loss, logits_BA, outputs.hidden_states, outputs.attentions)
