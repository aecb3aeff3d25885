"""VL-BERT as a base model: random, saved, from a file of the original, and from a BERT."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel

from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.models.vlbert import VLBertForQuestionAnswering

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "layers": 2}
FACTS = DataFacts(["yes", "no", "2"], visual_feat_dim=8, vocab_size=30, mask_token_id=4)
LOGGERS = "adaptive_ft.models.bases"
# Where the original has other names than we have.
THEIR_NAMES = {
    "vlbert.embeddings.region_projection.dense.": "image_feature_extractor.obj_downsample.1.",
    "vlbert.embeddings.region_embedding.": "object_linguistic_embeddings.",
    "vlbert.embeddings.visual_text.LayerNorm.": "vlbert.visual_ln_text.",
    "vlbert.embeddings.visual_region.LayerNorm.": "vlbert.visual_ln_object.",
    "vlbert.embeddings.LayerNorm.": "vlbert.embedding_LayerNorm.",
    "vlbert.embeddings.": "vlbert.",
    "answer_head.transform.": "final_mlp.0.",
    "answer_head.classifier.": "final_mlp.2.",
}


def options(**more: object) -> ModelConfig:
    return ModelConfig(**{"type": "vl_bert", "max_position_embeddings": 16, **SIZES, **more})


def build(facts: DataFacts = FACTS, **more: object) -> VLBertForQuestionAnswering:
    built = build_base(options(**more), facts)
    assert isinstance(built, VLBertForQuestionAnswering)
    return built


def their_name(name: str) -> str:
    ours = next((start for start in THEIR_NAMES if name.startswith(start)), "")
    return "module." + THEIR_NAMES.get(ours, "") + name.removeprefix(ours)


def write_original(model: VLBertForQuestionAnswering, file: Path, without: str = "nothing") -> str:
    state = {their_name(name): value for name, value in model.state_dict().items() if without not in name}
    torch.save({"state_dict": state, "optimizer": {"state": {}}}, file)
    return str(file)


def write_bert(folder: Path, whole: bool = True) -> BertForPreTraining:
    model = BertForPreTraining(
        BertConfig(
            vocab_size=30,
            hidden_size=12,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=20,
            max_position_embeddings=14,
            hidden_dropout_prob=0.3,
            hidden_act="relu",
            layer_norm_eps=1e-6,
        )
    )
    (model if whole else model.bert).save_pretrained(folder)
    return model


def test_random_weights_of_the_sizes_asked_for() -> None:
    config = build(visual_scale_init=0.5, hidden_dropout=0.2, attention_dropout=0.3).config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (16, 2, 24)
    assert (config.num_answers, config.visual_feat_dim, config.vocab_size, config.mask_token_id) == (3, 8, 30, 4)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.3)
    scale = build(visual_scale_init=0.5).vlbert.embeddings.visual_text.LayerNorm
    assert scale is not None
    assert scale.weight.unique().tolist() == [0.5]
    hidden = build().vlbert.embeddings.visual_region.LayerNorm
    assert hidden is not None
    assert not hidden.weight.any(), "the original's start: the picture is hidden"


def test_a_saved_folder_needs_no_type_and_another_table_gives_a_new_last_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = build()
    saved.save_pretrained(tmp_path)
    again = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in again.state_dict().items())
    with caplog.at_level(logging.WARNING, LOGGERS):
        wider = build_base(ModelConfig(name=str(tmp_path)), DataFacts(["a", "b"], 8, 30, 4))
    assert wider.config.num_answers == 2
    assert "answer_head.classifier.weight" in caplog.text
    assert "answer_head.transform" not in caplog.text


def test_a_folder_of_bf16_becomes_float32(tmp_path: Path) -> None:
    """Training owns float32 masters."""
    build().bfloat16().save_pretrained(tmp_path)
    built = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (DataFacts(["a"], 9, 30, 4), "region features of 8 values, the data has 9"),
        (DataFacts(["a"], 8, 31, 4), "vocabulary of 30 words, the tokenizer of the data has 31"),
        (DataFacts(["a"], 8, 30, 5), r"answers at token 4, the tokenizer's \[MASK\] is 5"),
        (DataFacts(["a"], 8, 30, None), r"the token \[MASK\], and the tokenizer of the data has none"),
    ],
)
def test_a_checkpoint_for_other_data_is_refused(tmp_path: Path, facts: DataFacts, message: str) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        build_base(ModelConfig(name=str(tmp_path)), facts)


def test_a_file_of_the_original_is_read_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its name alone says VL-BERT."""
    source = build()
    torch.nn.init.normal_(source.answer_head.classifier.bias)
    name = write_original(source, tmp_path / "vqa-best.model")
    with caplog.at_level(logging.WARNING, LOGGERS):
        built = build_base(options(name=name, type=None), FACTS)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in built.state_dict().items())
    assert f"{len(source.state_dict())} weights used, 0 unused, 0 missing" in caplog.text
    assert built.config.name_or_path == name


def test_answer_rows_of_a_file_are_taken_over_by_text(tmp_path: Path) -> None:
    source = build()
    name = write_original(source, tmp_path / "vqa-best.model")
    (tmp_path / "answers.json").write_text('["yes", "no", "2"]')
    built = build(DataFacts(["two", "maybe"], 8, 30, 4), name=name, answers=str(tmp_path / "answers.json"))
    theirs = source.answer_head.classifier.weight
    assert torch.equal(built.answer_head.classifier.weight, torch.stack([theirs[2], torch.zeros(16)]))
    assert built.config.num_answers == 2


def test_a_file_may_lack_embeddings_but_no_encoder_weight(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = write_original(build(), tmp_path / "a.model", without="end_embedding")
    with caplog.at_level(logging.WARNING, LOGGERS):
        build(name=name)
    assert "Newly initialised weights" in caplog.text
    assert "vlbert.embeddings.end_embedding.weight" in caplog.text
    name = write_original(build(), tmp_path / "b.model", without="layer.1.output.dense")
    with pytest.raises(UserError, match=r"lacks 2 weights .* 'vlbert\.encoder\.layer\.1\.output\.dense\.weight'"):
        build(name=name)
    with pytest.raises(UserError, match=r"lacks 16 weights of the backbone"):
        build(name=write_original(build(), tmp_path / "c.model"), layers=3)


@pytest.mark.parametrize("part", ["word_embeddings", "position_embeddings", "region_projection", "region_embedding"])
def test_a_file_without_what_every_vlbert_has_is_refused(part: str, tmp_path: Path) -> None:
    """Only what the pictures switch on, and the last token, may be absent from one."""
    with pytest.raises(UserError, match=rf"lacks \d weights of the backbone, .* 'vlbert\.embeddings\.{part}"):
        build(name=write_original(build(), tmp_path / "a.model", without=part))
    build(name=write_original(build(), tmp_path / "b.model", without="embeddings.visual_"))


def test_a_deeper_file_gives_its_first_layers_only_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the original's net of four layers, which starts from the first of a VL-BERT of twelve."""
    deep = build(layers=4)
    name = write_original(deep, tmp_path / "deep.model")
    told = r"'.*deep\.model' has 4 layers in vlbert\.encoder\.layer, --model\.layers is 1: give --model\.layers 4, or"
    with pytest.raises(UserError, match=told + r" --model\.first_layers true to start from its first ones"):
        build(name=name, layers=1)
    with caplog.at_level(logging.WARNING, LOGGERS):
        built = build(name=name, layers=1, first_layers=True)
    assert "layers 1 to 3 of 4 in vlbert.encoder.layer are left out (--model.layers 1)" in caplog.text
    assert len(built.vlbert.encoder.layer) == 1
    assert all(torch.equal(value, deep.state_dict()[key]) for key, value in built.state_dict().items())


def test_only_a_file_gives_its_first_layers(tmp_path: Path) -> None:
    """A folder is read whole, and random weights are as many as asked for: the option would do nothing."""
    build(layers=4).save_pretrained(tmp_path)
    for name in (str(tmp_path), None):
        with pytest.raises(UserError, match=r"--model\.first_layers is for files of the original project"):
            build(name=name, layers=2, first_layers=True)


def test_parts_of_the_file_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = build()
    name = write_original(source, tmp_path / "vqa-best.model")
    content = torch.load(name, weights_only=True)
    torch.save({**content, "policy_state_dict": {"vlbert.x": torch.zeros(1)}}, name)
    with caplog.at_level(logging.WARNING, LOGGERS):
        build(name=name)
    assert "0 missing; not read: optimizer, policy_state_dict" in caplog.text


def test_a_list_and_a_head_that_do_not_fit(tmp_path: Path) -> None:
    name = write_original(build(), tmp_path / "vqa-best.model")
    (tmp_path / "answers.json").write_text('["yes", "no", "2", "3"]')
    with pytest.raises(UserError, match=r"lists 4 answers, the head of .*vqa-best\.model' has 3: give the list"):
        build(name=name, answers=str(tmp_path / "answers.json"))
    content = torch.load(name, weights_only=True)
    content["state_dict"]["module.final_mlp.2.bias"] = torch.zeros(())
    torch.save(content, name)
    with pytest.raises(UserError, match=r"'module\.final_mlp\.2\.bias' .* has shape \[1\]"):
        build(name=name)


def test_a_file_under_another_ending_asks_for_its_family(tmp_path: Path) -> None:
    name = write_original(build(), tmp_path / "vqa-best.pth")
    with pytest.raises(UserError, match=r"holds no weights of LXMERT; .* give --model\.type vl_bert"):
        build_base(options(name=name, type=None), FACTS)
    build(name=name)


def test_a_bert_gives_encoder_embeddings_and_transform(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its own sizes and dropout hold; of three token types the first two are its own."""
    bert = write_bert(tmp_path)
    with caplog.at_level(logging.WARNING, LOGGERS):
        built = build(name=str(tmp_path))
    given, made = bert.state_dict(), built.state_dict()
    for name, value in given.items():
        if name.startswith(("bert.encoder.", "bert.embeddings.word", "bert.embeddings.pos", "bert.embeddings.Layer")):
            assert torch.equal(made["vl" + name], value), name
        if name.startswith("cls.predictions.transform."):
            assert torch.equal(made[name.replace("cls.predictions.", "answer_head.")], value), name
    assert (built.config.hidden_act, built.config.layer_norm_eps) == ("relu", 1e-6)
    types = made["vlbert.embeddings.token_type_embeddings.weight"]
    assert types.shape == (3, 12)
    assert torch.equal(types[:2], given["bert.embeddings.token_type_embeddings.weight"])
    assert types[2].abs().min() > 0
    assert (built.config.num_hidden_layers, built.config.hidden_dropout_prob) == (3, 0.3)
    assert "vlbert.embeddings.region_projection.dense.weight" in caplog.text
    assert "answer_head.transform" not in caplog.text
    assert built.config.name_or_path == "", "what is half random is not this BERT"


def test_a_bert_has_no_answers_to_take_over(tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / "answers.json").write_text('["yes", "no", "2"]')
    with pytest.raises(UserError, match="has no answer head to take rows from"):
        build(name=str(tmp_path), answers=str(tmp_path / "answers.json"))


def test_a_bert_without_a_word_head_leaves_the_transform_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bert(tmp_path, whole=False)
    with caplog.at_level(logging.WARNING, LOGGERS):
        build(name=str(tmp_path))
    assert "answer_head.transform.dense.weight" in caplog.text


def test_a_bert_is_no_base_by_itself_nor_for_lxmert(tmp_path: Path) -> None:
    BertModel(
        BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is of type 'bert'; a run can start from"):
        build_base(ModelConfig(name=str(tmp_path)), FACTS)
    with pytest.raises(UserError, match="is of type 'bert', not 'lxmert'"):
        build_base(ModelConfig(name=str(tmp_path), type="lxmert"), FACTS)
    with pytest.raises(UserError, match=r"--model.type is 'vlbert'; .* Did you mean 'vl_bert'"):
        build_base(ModelConfig(type="vlbert"), FACTS)
