"""Checkpoints of the original LXMERT: both forms of the names, and what does not fit."""

import pytest
import torch
from torch import Tensor
from transformers import LxmertConfig, LxmertForQuestionAnswering

from adaptive_ft.errors import UserError
from adaptive_ft.models.lxmert_checkpoint import convert_lxmert

SIZES = LxmertConfig(
    vocab_size=20, hidden_size=8, num_attention_heads=2, intermediate_size=8, visual_feat_dim=4, l_layers=1, r_layers=1,
    x_layers=1, max_position_embeddings=8, num_qa_labels=3,
)  # fmt: skip


@pytest.fixture
def ours() -> dict[str, Tensor]:
    return LxmertForQuestionAnswering(SIZES).state_dict()


def pretrained_name(name: str) -> str:
    """As the original's LXRTPretraining calls a weight."""
    return "bert." + name.removeprefix("lxmert.") if name.startswith("lxmert.") else name


def fine_tuned_name(name: str) -> str:
    """As the original's VQAModel calls a weight."""
    if name.startswith("lxmert."):
        return "lxrt_encoder.model.bert." + name.removeprefix("lxmert.")
    return name.removeprefix("answer_head.")


@pytest.mark.parametrize("rename", [pretrained_name, fine_tuned_name])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_every_weight_has_one_place_in_each_form(rename: object, wrapper: str, ours: dict[str, Tensor]) -> None:
    assert callable(rename)
    others = {f"{wrapper}cls.predictions.bias": torch.zeros(20), f"{wrapper}obj_predict_head.x": torch.zeros(1)}
    original = {wrapper + rename(name): value for name, value in ours.items()} | others
    converted, report = convert_lxmert(original, SIZES)
    assert set(report.unused) == set(others)
    assert report.missing == ()
    assert converted.keys() == ours.keys()
    assert all(converted[name] is ours[name] for name in ours)


def test_the_frozen_copies_of_an_adaptive_run_are_not_read(ours: dict[str, Tensor]) -> None:
    original = {fine_tuned_name(name): value for name, value in ours.items()}
    frozen = {
        key.replace("attention.self.", "attention.self.parallel_"): value + 1
        for key, value in original.items()
        if "attention.self." in key
    }
    assert frozen
    converted, report = convert_lxmert(original | frozen, SIZES)
    assert set(report.unused) == set(frozen)
    assert all(converted[name] is ours[name] for name in ours)


def test_weights_that_do_not_fit(ours: dict[str, Tensor]) -> None:
    original = {pretrained_name(name): value for name, value in ours.items()}
    with pytest.raises(UserError, match="holds no weights of LXMERT"):
        convert_lxmert({"conv1.weight": torch.zeros(1)}, SIZES)
    with pytest.raises(UserError, match=r"are two weights for 'answer_head\.logit_fc\.3\.bias'"):
        convert_lxmert(original | {"logit_fc.3.bias": torch.zeros(3)}, SIZES)
    with pytest.raises(UserError, match=r"'answer_head\.logit_fc\.3\.bias' .* has shape \[9\].* asks for \[3\]"):
        convert_lxmert(original | {"answer_head.logit_fc.3.bias": torch.zeros(9)}, SIZES)
