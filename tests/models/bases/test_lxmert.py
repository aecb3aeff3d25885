"""LXMERT from an original file: weights by name, answer rows by text, refusals."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LxmertForQuestionAnswering
from transformers.models.lxmert.modeling_lxmert import LxmertAttention

from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.lxmert import random
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.models.lxmert_attention import SdpaLxmertAttention

SIZES = ModelConfig(
    hidden_size=16, num_attention_heads=2, intermediate_size=16, language_layers=1, region_layers=1, cross_layers=1,
    max_position_embeddings=12,
)  # fmt: skip
THEIRS = ["man", "gray", "yes", "2"]
OURS = ["two", "a man", "spaceship"]
LOGGERS = "adaptive_ft.models.bases"


def facts(answers: list[str]) -> DataFacts:
    return DataFacts(answers, visual_feat_dim=8, vocab_size=30)


@pytest.fixture
def original(tmp_path: Path) -> LxmertForQuestionAnswering:
    """A model that lies as the original's pretraining saves it, in model_LXRT.pth, with its answers in answers.json."""
    model = random(SIZES, facts(THEIRS))
    torch.nn.init.normal_(model.answer_head.logit_fc[3].bias)
    state = {f"module.{name.replace('lxmert.', 'bert.', 1)}": value for name, value in model.state_dict().items()}
    torch.save(state | {"module.cls.predictions.bias": torch.zeros(30)}, tmp_path / "model_LXRT.pth")
    (tmp_path / "answers.json").write_text(json.dumps([{"ans": answer} for answer in THEIRS]))
    model.save_pretrained(tmp_path / "saved")
    return model


def at(place: Path, name: str = "model_LXRT.pth", **options: str) -> ModelConfig:
    return ModelConfig(**{**SIZES.__dict__, "name": str(place / name), **options})


@pytest.mark.parametrize("name", ["model_LXRT.pth", "saved"])
def test_answer_rows_are_taken_over_by_text(
    name: str, original: LxmertForQuestionAnswering, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a file of the original as from a folder of transformers."""
    with caplog.at_level(logging.WARNING, LOGGERS):
        built = build_base(at(tmp_path, name, answers=str(tmp_path / "answers.json")), facts(OURS))
    assert isinstance(built, LxmertForQuestionAnswering)
    theirs, head = original.answer_head.logit_fc[3], built.answer_head.logit_fc[3]
    assert torch.equal(head.weight, torch.stack([theirs.weight[3], theirs.weight[0], torch.zeros(32)]))
    assert torch.equal(head.bias, torch.stack([theirs.bias[3], theirs.bias[0], torch.zeros(())]))
    assert built.config.num_qa_labels == built.num_qa_labels == 3
    assert "2 of 3 answers have their row" in caplog.text
    assert "1 start at 0, for instance 'spaceship'" in caplog.text
    rest = {name: value for name, value in built.state_dict().items() if "logit_fc.3" not in name}
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in rest.items())


def test_a_folder_gets_the_fused_attention_and_float32(original: LxmertForQuestionAnswering, tmp_path: Path) -> None:
    original.bfloat16().save_pretrained(tmp_path / "saved")
    built = build_base(at(tmp_path, "saved"), facts(THEIRS))
    attentions = [module for module in built.modules() if isinstance(module, LxmertAttention)]
    # A language layer, a region layer, and three attentions of a cross layer.
    assert [type(attention) for attention in attentions] == [SdpaLxmertAttention] * 5
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


def test_without_a_list_another_head_starts_at_random(
    original: LxmertForQuestionAnswering, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, LOGGERS):
        built = build_base(at(tmp_path), facts(OURS))
    assert isinstance(built, LxmertForQuestionAnswering)
    assert built.answer_head.logit_fc[3].weight.shape == (3, 32)
    assert built.answer_head.logit_fc[3].weight.abs().min() > 0
    assert torch.equal(built.answer_head.logit_fc[0].weight, original.answer_head.logit_fc[0].weight)
    assert "answer_head.logit_fc.3.weight" in caplog.text
    assert "weights used, 1 unused, 2 missing" in caplog.text


def test_an_equal_head_is_read_whole_and_one_set_of_answers_gives_one_logit(
    original: LxmertForQuestionAnswering, tmp_path: Path
) -> None:
    built = build_base(at(tmp_path), facts(THEIRS)).eval()
    inputs = {
        "input_ids": torch.tensor([[1, 2]]),
        "visual_feats": torch.randn(1, 2, 8),
        "visual_pos": torch.rand(1, 2, 4),
    }
    expected = original.eval()(**inputs).question_answering_score
    torch.testing.assert_close(built(**inputs).question_answering_score, expected)


def test_files_and_lists_that_do_not_fit(original: LxmertForQuestionAnswering, tmp_path: Path) -> None:
    short = tmp_path / "short.json"
    short.write_text('["yes"]')
    with pytest.raises(UserError, match=r"lists 1 answers, the head of .* has 4"):
        build_base(at(tmp_path, "saved", answers=str(short)), facts(OURS))
    with pytest.raises(UserError, match=r"lists 1 answers, the head of .*model_LXRT\.pth' has 4: give the list"):
        build_base(at(tmp_path, answers=str(short)), facts(OURS))
    with pytest.raises(UserError, match="there is no checkpoint"):
        build_base(at(tmp_path, "missing.pth"), facts(OURS))
    with pytest.raises(UserError, match=r"holds no weights of VL-BERT; .* give --model\.type lxmert"):
        build_base(at(tmp_path, type="vl_bert"), DataFacts(OURS, 8, 30, mask_token_id=4))
    with pytest.raises(UserError, match=r"give --model\.name"):
        build_base(ModelConfig(answers="x.json"), facts(OURS))
    state = torch.load(tmp_path / "model_LXRT.pth", weights_only=True)
    torch.save({key: value for key, value in state.items() if "x_layers" not in key}, tmp_path / "model_LXRT.pth")
    with pytest.raises(UserError, match=r"lacks \d+ weights of the backbone, for instance 'lxmert.encoder.x_layers"):
        build_base(at(tmp_path), facts(OURS))


@pytest.mark.parametrize("name", ["model_LXRT.pth", "saved"])
def test_a_checkpoint_without_a_head_has_no_rows_to_give(
    name: str, original: LxmertForQuestionAnswering, tmp_path: Path
) -> None:
    """Random rows must not pass for rows found by their text."""
    state = torch.load(tmp_path / "model_LXRT.pth", weights_only=True)
    torch.save({key: value for key, value in state.items() if "logit_fc.3" not in key}, tmp_path / "model_LXRT.pth")
    original.lxmert.save_pretrained(tmp_path / "saved")
    with pytest.raises(
        UserError, match=r"--model\.answers .*'.*" + name + "', which has no answer head to take rows from"
    ):
        build_base(at(tmp_path, name, answers=str(tmp_path / "answers.json")), facts(OURS))
    assert build_base(at(tmp_path, name), facts(OURS)).config.num_qa_labels == 3


DEEPER = {"language_layers": "layer", "region_layers": "r_layers", "cross_layers": "x_layers"}


@pytest.mark.parametrize("option", DEEPER)
def test_a_deeper_file_gives_its_first_layers_only_when_asked(
    option: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = random(replace(SIZES, **{option: 3}), facts(THEIRS))
    state = {name.replace("lxmert.", "bert.", 1): value for name, value in deep.state_dict().items()}
    twins = {key.replace("self.query", "self.parallel_query"): value for key, value in state.items()}
    torch.save(state | twins, tmp_path / "model_LXRT.pth")
    told = rf"'.*model_LXRT\.pth' has 3 layers in lxmert\.encoder\.{DEEPER[option]}, --model\.{option} is 1: give"
    with pytest.raises(UserError, match=told):
        build_base(at(tmp_path), facts(THEIRS))
    with caplog.at_level(logging.WARNING, LOGGERS):
        built = build_base(replace(at(tmp_path), first_layers=True), facts(THEIRS))
    assert f"layers 1 to 2 of 3 in lxmert.encoder.{DEEPER[option]} are left out (--model.{option} 1)" in caplog.text
    assert all(torch.equal(value, deep.state_dict()[name]) for name, value in built.state_dict().items())


def test_the_frozen_copies_of_an_adaptive_run_are_no_deeper_layers(
    original: LxmertForQuestionAnswering, tmp_path: Path
) -> None:
    state = torch.load(tmp_path / "model_LXRT.pth", weights_only=True)
    twins = {key.replace("encoder.layer.0.", "encoder.parallel_layer.7."): value for key, value in state.items()}
    torch.save(state | twins, tmp_path / "model_LXRT.pth")
    build_base(at(tmp_path), facts(OURS))


def test_the_real_answers_of_the_pretrained_model(shared_data: Path, tmp_path: Path) -> None:
    """A head of the 9,500 pretraining answers for the 3,129 of VQA v2: the rows are found by the answers' text."""
    listed = shared_data / "lxmert_answer_tables/all_ans.json"
    theirs = [entry["ans"] for entry in json.loads(listed.read_text())]
    ours = json.loads((shared_data / "vqa_v2_answer_vocab/trainval_label2ans.json").read_text())
    model = random(SIZES, facts(theirs))
    state = {name.replace("lxmert.", "bert.", 1): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "model_LXRT.pth")
    built = build_base(at(tmp_path, answers=str(listed)), facts(ours))
    assert isinstance(built, LxmertForQuestionAnswering)
    weight = built.answer_head.logit_fc[3].weight
    for answer in ("yes", "no", "red", "2", "hot dog"):
        expected = model.answer_head.logit_fc[3].weight[theirs.index(answer)]
        assert torch.equal(weight[ours.index(answer)], expected), answer
    assert torch.equal(weight[0], torch.zeros(32)), "the empty answer of VQA v2 is not among them"
