"""LXMERT as a base model: random weights, a checkpoint in the form of transformers, or an original file."""

import functools

import torch
from transformers import AutoConfig, LxmertConfig, LxmertForQuestionAnswering

from adaptive_ft.models.bases.answer_head import check_given, check_listed, facts_of_head, fitted_head
from adaptive_ft.models.bases.options import DataFacts, Family, ModelConfig
from adaptive_ft.models.bases.original import Form, load_original
from adaptive_ft.models.bases.reading import check_fits, check_report, read_pretrained
from adaptive_ft.models.lxmert_attention import use_sdpa
from adaptive_ft.models.lxmert_checkpoint import convert_lxmert, renamed

HEAD = "answer_head."
LAST = "answer_head.logit_fc.3."
FILES = Form(
    "lxmert",
    renamed,
    may_be_new=(HEAD,),
    last=LAST,
    stacks={
        "lxmert.encoder.layer.": "language_layers",
        "lxmert.encoder.r_layers.": "region_layers",
        "lxmert.encoder.x_layers.": "cross_layers",
    },
)


def random(config: ModelConfig, facts: DataFacts) -> LxmertForQuestionAnswering:
    """Random weights of the sizes in `config`; the attention is the fused one (`use_sdpa`)."""
    config.check_heads()
    sizes = LxmertConfig(
        vocab_size=facts.vocab_size,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        l_layers=config.language_layers,
        r_layers=config.region_layers,
        x_layers=config.cross_layers,
        max_position_embeddings=config.max_position_embeddings,
        initializer_range=config.initializer_range,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        visual_feat_dim=facts.visual_feat_dim,
        num_qa_labels=facts.num_answers,
    )
    model = LxmertForQuestionAnswering(sizes)
    use_sdpa(model)
    return model


def pretrained(config: ModelConfig, facts: DataFacts) -> LxmertForQuestionAnswering:
    """The checkpoint, its answer head new or taken over by text where it has another one."""
    name, listed = str(config.name), facts_of_head(config, facts)
    check_fits(name, read_pretrained(AutoConfig.from_pretrained, name), facts)
    model, report = read_pretrained(
        LxmertForQuestionAnswering.from_pretrained,
        name,
        num_qa_labels=listed.num_answers,
        # Without it the weights keep the type they were saved in; training owns float32 masters.
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    check_listed(config, report["mismatched_keys"], LAST)
    check_given(config, report["missing_keys"], LAST)
    check_report(name, report, HEAD)
    return _finished(model, config, facts)


def original(config: ModelConfig, facts: DataFacts) -> LxmertForQuestionAnswering:
    """A file of the original, of the sizes in `config`, its answer head new or taken over by text where it has another
    one."""
    model = random(config, facts_of_head(config, facts))
    load_original(model, config, functools.partial(convert_lxmert, config=model.config), FILES)
    return _finished(model, config, facts)


def _finished(model: LxmertForQuestionAnswering, config: ModelConfig, facts: DataFacts) -> LxmertForQuestionAnswering:
    """The head as the data's answers need it, and the fused attention."""
    head = model.answer_head.logit_fc
    head[3] = fitted_head(head[3], config, facts)
    model.config.num_qa_labels = model.num_qa_labels = facts.num_answers
    use_sdpa(model)
    return model


LXMERT = Family(random, pretrained, original)
