"""VL-BERT with its answer head, adapted: published numbers of decisions and parameters, gradients, files.

What it shares with every encoder of one stack is tested in test_single_stream.py.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adaptive_ft import AdaptiveConfig, AdaptiveModel, get_adaptive_model
from adaptive_ft.models import describe
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering, VLBertModel
from adaptive_ft.strategies import tie


def base_size(model_class: type[nn.Module] = VLBertModel) -> nn.Module:
    with torch.device("meta"):
        return model_class(VLBertConfig.base())


def answers(model: nn.Module, batch: dict[str, Tensor], **options: object) -> Tensor:
    return model(**batch, **options).question_answering_score


def shake_deltas(model: AdaptiveModel) -> None:
    with torch.no_grad():
        for _, parameter in model.parameter_groups()["delta"]:
            parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize(("strategy", "count"), [("spottune", 180), ("spottune_res", 24), ("spottune_block", 12)])
def test_numbers_of_decisions_at_base_size(strategy: str, count: int) -> None:
    assert len(tie(strategy, describe(base_size()).components).decisions) == count


def test_large_size_has_a_decision_per_head() -> None:
    with torch.device("meta"):
        assert len(describe(VLBertModel(VLBertConfig.large())).components) == 24 * 19


@pytest.mark.parametrize(
    ("strategy", "frozen_layers", "millions"),
    [
        ("standard", (), 115.0),
        ("pretrained_frozen", (), 30.0),
        ("last_4", (), 58.3),
        ("specific_k", (2, 3, 9, 10), 86.7),
    ],
)
def test_trainable_parameters_are_the_published_ones(
    strategy: str, frozen_layers: tuple[int, ...], millions: float
) -> None:
    config = AdaptiveConfig(strategy=strategy, frozen_layers=frozen_layers)
    counts = get_adaptive_model(base_size(VLBertForQuestionAnswering), config).count_parameters()
    assert round(counts["trainable"] / 1e6, 1) == millions
    assert counts["frozen"] == 85_054_464


def test_gradients_reach_what_trains_and_nothing_else(
    model: VLBertForQuestionAnswering, batch: dict[str, Tensor]
) -> None:
    adapted = get_adaptive_model(model, AdaptiveConfig(strategy="standard"))
    answers(adapted, batch).square().sum().backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert set(adapted.parameter_groups()) == {"delta", "other", "head"}


def test_adapted_saved_and_loaded(model: VLBertForQuestionAnswering, batch: dict[str, Tensor], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base")
    adapted = get_adaptive_model(model, AdaptiveConfig(strategy="standard")).eval()
    shake_deltas(adapted)
    adapted.save_pretrained(tmp_path / "adapted")
    base = VLBertForQuestionAnswering.from_pretrained(tmp_path / "base")
    expected = answers(adapted, batch)
    assert answers(AdaptiveModel.from_pretrained(base, tmp_path / "adapted"), batch).equal(expected)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(answers(merged, batch), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = VLBertForQuestionAnswering.from_pretrained(tmp_path / "merged")
    assert answers(loaded, batch).equal(answers(merged, batch))
