"""VL-BERT as a base model: random weights, a folder that it was saved in, an original file, or a BERT to start from."""

import functools

import torch
from transformers import AutoConfig, BertForPreTraining

from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.answer_head import check_given, check_listed, facts_of_head, fitted_head
from adaptive_ft.models.bases.options import DataFacts, Family, ModelConfig
from adaptive_ft.models.bases.original import Form, load_converted, load_original
from adaptive_ft.models.bases.reading import check_fits, check_report, read_pretrained
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering, convert_bert, convert_checkpoint
from adaptive_ft.models.vlbert.conversion import renamed

HEAD = "answer_head."
LAST = "answer_head.classifier."
# What a file need not give: the token after the regions, and how tokens show them.
OPTIONAL = ("vlbert.embeddings.end_embedding.", "vlbert.embeddings.visual_text.", "vlbert.embeddings.visual_region.")
FILES = Form("vl_bert", renamed, may_be_new=(HEAD, *OPTIONAL), last=LAST, stacks={"vlbert.encoder.layer.": "layers"})
# What no BERT has beside these.
OF_REGIONS = ("vlbert.embeddings.region_projection.", "vlbert.embeddings.region_embedding.")
# What a VL-BERT has in common with the BERT it starts from.
SIZES_OF_BERT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
)


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
        coordinate_waves=config.coordinate_waves,
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
    """The checkpoint, its answer head new or taken over by text where it has another one."""
    name, listed = str(config.name), facts_of_head(config, facts)
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
        num_answers=listed.num_answers,
        # Without it the weights keep the type they were saved in; training owns float32 masters.
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    check_listed(config, report["mismatched_keys"], LAST)
    check_given(config, report["missing_keys"], LAST)
    check_report(name, report, HEAD)
    return _finished(model, config, facts)


def original(config: ModelConfig, facts: DataFacts) -> VLBertForQuestionAnswering:
    """A file of the original, of the sizes in `config`, its answer head new or taken over by text where it has another
    one; of two copies of a weight the tuned one is read."""
    model = random(config, facts_of_head(config, facts))
    convert = functools.partial(convert_checkpoint, config=model.config)
    load_original(model, config, convert, FILES)
    return _finished(model, config, facts)


def from_bert(config: ModelConfig, facts: DataFacts) -> VLBertForQuestionAnswering:
    """The encoder, the embeddings of words, positions and types, and the word head's transform of a BERT; the rest is
    random, so that the model has no name: the BERT's would not give it again."""
    name = str(config.name)
    found = read_pretrained(AutoConfig.from_pretrained, name)
    check_fits(name, found, facts)
    bert, report = read_pretrained(
        BertForPreTraining.from_pretrained, name, dtype=torch.float32, output_loading_info=True
    )
    given = {key: value for key, value in bert.state_dict().items() if key not in report["missing_keys"]}
    own = sizes(config, facts)
    for size in SIZES_OF_BERT:
        setattr(own, size, getattr(found, size))
    model = VLBertForQuestionAnswering(own)
    converted, conversion = convert_bert(given, model.state_dict())
    check_given(config, conversion.missing, LAST)
    load_converted(model, name, converted, conversion, (HEAD, *OPTIONAL, *OF_REGIONS))
    return model


def _finished(model: VLBertForQuestionAnswering, config: ModelConfig, facts: DataFacts) -> VLBertForQuestionAnswering:
    """The head as the data's answers need it."""
    model.answer_head.classifier = fitted_head(model.answer_head.classifier, config, facts)
    model.config.num_answers = facts.num_answers
    return model


VL_BERT = Family(random, pretrained, original, {"bert": from_bert})
