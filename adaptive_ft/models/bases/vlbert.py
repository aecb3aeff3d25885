"""VL-BERT as a base model: random weights, or a folder that VLBertForQuestionAnswering saved."""

import torch
from transformers import AutoConfig

from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.options import DataFacts, Family, ModelConfig
from adaptive_ft.models.bases.reading import check_fits, check_report, read_pretrained
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering

HEAD = "answer_head."


def sizes(config: ModelConfig, facts: DataFacts) -> VLBertConfig:
    """Our options in the words of VLBertConfig."""
    config.check_heads()
    return VLBertConfig(
        vocab_size=facts.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        initializer_range=config.initializer_range,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        region_dropout_prob=config.hidden_dropout,
        classifier_dropout=config.hidden_dropout,
        visual_feat_dim=facts.visual_feat_dim,
        visual_scale_init=config.visual_scale_init,
        num_answers=facts.num_answers,
        mask_token_id=mask_of(facts),
    )


def mask_of(facts: DataFacts) -> int:
    """The token whose hidden state answers; raises UserError where the tokenizer has none."""
    if facts.mask_token_id is None:
        raise UserError(
            "VL-BERT answers at the token [MASK], and the tokenizer of the data has none: give another one with"
            " --data.tokenizer."
        )
    return facts.mask_token_id


def random(config: ModelConfig, facts: DataFacts) -> VLBertForQuestionAnswering:
    """Random weights of the sizes in `config`."""
    return VLBertForQuestionAnswering(sizes(config, facts))


def pretrained(config: ModelConfig, facts: DataFacts) -> VLBertForQuestionAnswering:
    """The checkpoint, its answer head new where it has another one."""
    name = str(config.name)
    found = read_pretrained(AutoConfig.from_pretrained, name)
    check_fits(name, found, facts)
    if found.mask_token_id != mask_of(facts):
        raise UserError(
            f"model '{name}' answers at token {found.mask_token_id}, the tokenizer's [MASK] is {facts.mask_token_id}:"
            " give the tokenizer of the model with --data.tokenizer."
        )
    model, report = read_pretrained(
        VLBertForQuestionAnswering.from_pretrained,
        name,
        num_answers=facts.num_answers,
        # Without it the weights keep the type they were saved in; training owns float32 masters.
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    check_report(name, report, HEAD)
    fitted: VLBertForQuestionAnswering = model
    return fitted


VL_BERT = Family(random, pretrained)
