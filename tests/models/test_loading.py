"""Building the base model: random sizes, a folder, the new answer head, and what does not fit."""

import logging
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LxmertModel, PreTrainedModel

from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base

TINY = ModelConfig(
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    language_layers=2,
    region_layers=1,
    cross_layers=1,
    max_position_embeddings=12,
    hidden_dropout=0.0,
    attention_dropout=0.2,
)
NUM_ANSWERS, FEATURES, WORDS = 5, 16, 40


def build(name: str | None = None, answers: int = 5, features: int = 16, words: int = 40) -> PreTrainedModel:
    config = TINY if name is None else ModelConfig(name=name)
    return build_base(config, DataFacts([str(n) for n in range(answers)], features, words))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path)
    return tmp_path


def test_random_weights_of_the_sizes_asked_for() -> None:
    config = build().config
    assert (config.l_layers, config.r_layers, config.x_layers) == (2, 1, 1)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.2)
    assert (config.num_qa_labels, config.visual_feat_dim, config.vocab_size) == (5, 16, 40)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(UserError, match="hidden_size 32 is not a multiple of num_attention_heads 5"):
        build_base(ModelConfig(hidden_size=32, num_attention_heads=5), DataFacts(["yes"], 16, 40))


def test_a_folder_is_read_whole(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded, saved = build(str(checkpoint)).state_dict(), load_file(checkpoint / "model.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert "Newly initialised" not in caplog.text


def test_weights_saved_in_bf16_come_in_float32(checkpoint: Path) -> None:
    """Training keeps its own precision, whatever type a checkpoint was saved in."""
    build().bfloat16().save_pretrained(checkpoint)
    saved = load_file(checkpoint / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert {value.dtype for value in build(str(checkpoint)).parameters()} == {torch.float32}


def test_another_number_of_answers_gives_a_new_last_layer_and_says_so(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "adaptive_ft.models.bases.reading"):
        model = build(str(checkpoint), answers=9)
    saved = load_file(checkpoint / "model.safetensors")
    assert model.answer_head.logit_fc[3].weight.shape == (9, 64)
    assert torch.equal(model.answer_head.logit_fc[0].weight, saved["answer_head.logit_fc.0.weight"])
    assert "answer_head.logit_fc.3.weight" in caplog.text
    assert "answer_head.logit_fc.0.weight" not in caplog.text


def test_a_bare_backbone_gets_a_new_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = LxmertModel(build().config)
    bare.save_pretrained(tmp_path)
    model = build(str(tmp_path))
    assert torch.equal(model.lxmert.pooler.dense.weight, bare.pooler.dense.weight)
    assert "answer_head.logit_fc.0.weight" in caplog.text


@pytest.mark.parametrize(
    ("features", "words", "message"),
    [
        (20, 40, "region features of 16 values, the data has 20"),
        (16, 41, "vocabulary of 40 words, the tokenizer of the data has 41"),
    ],
)
def test_a_checkpoint_for_other_data_is_refused(checkpoint: Path, features: int, words: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(str(checkpoint), features=features, words=words)


def test_a_checkpoint_without_all_backbone_weights_is_refused(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    del weights["lxmert.encoder.layer.1.output.dense.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights of the backbone, for instance 'lxmert\.encoder\.layer\.1"):
        build(str(checkpoint))


def test_another_family_is_refused(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is of type 'bert'; a run can start from: lxmert"):
        build(str(tmp_path))


def test_a_truncated_file_is_refused_in_one_line(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load the model") as caught:
        build(str(checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"info about the weights"], ids=["empty", "garbage", "text"])
def test_an_old_weight_file_that_is_none_is_refused_in_one_line(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot load the model .* as a folder: it is no torch file, or") as caught:
        build(str(checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "nowhere/", "data/base", "runs/mine"])
def test_a_missing_folder_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can only be a folder is not asked of the hub; a relative path may only be seen from the wrong place."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"model folder '{name}' does not exist \(seen from '{Path.cwd()}'\)"):
        build(name)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sentence = r"cannot load the model 'nobody/nothing', read as a hub id \(there is no such folder in '/"
    with pytest.raises(UserError, match=sentence) as caught:
        build("nobody/nothing")
    assert "\n" not in str(caught.value)
