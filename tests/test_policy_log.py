"""The policy log keeps the gates of every pass while it is enabled, and nothing else."""

import copy
from typing import Any

import pytest
import torch

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from tests.models.tiny_families import TINY


@pytest.fixture
def model() -> AdaptiveModel:
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    return get_adaptive_model(TINY["vit"].build(), AdaptiveConfig("spottune", policy=policy)).eval()


def inputs(batch: int) -> dict[str, Any]:
    return TINY["vit"].inputs(batch)


def test_nothing_is_kept_unless_enabled(model: AdaptiveModel) -> None:
    """But the gates of the latest pass are there in any case."""
    assert model.get_latest_gates() is None
    first, second = model(**inputs(2)), model(**inputs(3))
    assert model.get_policy_log() == []
    latest = model.get_latest_gates()
    assert latest is not None
    assert torch.equal(latest, second.gates)
    assert latest.shape != first.gates.shape


def test_every_pass_is_kept_while_enabled(model: AdaptiveModel) -> None:
    """Of the network and forced ones, in order, each with its own batch size."""
    model.enable_policy_logging()
    forced_BD = torch.randint(0, 2, (4, len(model.decisions))).float()
    expected = [model(**inputs(2)).gates, model(**inputs(3)).gates, forced_BD, torch.zeros(1, len(model.decisions))]
    model(**inputs(4), policy=forced_BD)
    model(**inputs(1), policy="frozen")
    model.disable_policy_logging()
    model(**inputs(5))
    kept = model.get_policy_log()
    assert [gates.tolist() for gates in kept] == [gates.tolist() for gates in expected]
    latest = model.get_latest_gates()
    assert latest is not None
    assert len(latest) == 5
    kept.clear()
    assert len(model.get_policy_log()) == 4, "the list given out is not the log itself"
    model.clear_policy_log()
    assert model.get_policy_log() == []


def test_a_forced_tensor_that_changes_later_does_not_change_the_log(model: AdaptiveModel) -> None:
    model.enable_policy_logging()
    forced_BD = torch.ones(2, len(model.decisions))
    model(**inputs(2), policy=forced_BD)
    forced_BD.zero_()
    assert model.get_policy_log()[0].all()


def test_the_log_holds_no_graph(model: AdaptiveModel) -> None:
    """In training the gates carry a gradient; what is kept does not."""
    model.train()
    model.enable_policy_logging()
    output = model(**inputs(2))
    assert output.gates.requires_grad
    latest = model.get_latest_gates()
    assert latest is not None
    assert not latest.requires_grad
    assert not model.get_policy_log()[0].requires_grad
    assert copy.deepcopy(model).get_policy_log()[0].shape == (2, len(model.decisions))
    assert not any("log" in name for name in model.state_dict())
