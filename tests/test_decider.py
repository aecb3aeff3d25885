"""Where the gates of a batch come from: the network, forced decisions, words, and one decision for all inputs.

Shape suffixes: B batch, C components, D decisions.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from tests.models.tiny_families import TINY

POLICY = PolicyConfig(embedding_size=4, hidden_size=8)
DECISION = [True, False, True]


def adapt(strategy: str = "spottune_block", **options: Any) -> AdaptiveModel:
    """A ViT of three layers, in evaluation mode, that has learned something in every delta."""
    config = AdaptiveConfig(strategy, policy=POLICY, **options)
    model = get_adaptive_model(TINY["vit"].build(), config).eval()
    with torch.no_grad():
        for _, delta in model.parameter_groups().get("delta", []):
            delta.normal_(std=0.2)
    return model


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return TINY["vit"].inputs(4)


@pytest.mark.parametrize("given", [torch.tensor(DECISION), torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.0, 1.0])])
def test_the_global_decision_forces_every_sample(given: Tensor, inputs: dict[str, Tensor]) -> None:
    model = adapt()
    model.global_decisions = given
    found, same = model(**inputs, policy="global"), model(**inputs, policy=given.expand(4, -1))
    assert found.gates.tolist() == [DECISION] * 4
    assert torch.equal(found.pooler_output, same.pooler_output)
    assert model.global_decisions is not None
    assert (model.global_decisions.dtype, model.global_decisions.tolist()) == (torch.bool, DECISION)


def test_what_is_given_later_does_not_reach_in(inputs: dict[str, Tensor]) -> None:
    """Neither the tensor that was set nor one that was read is the model's own."""
    model, given = adapt(), torch.tensor(DECISION)
    model.global_decisions = given
    given.zero_()
    read = model.global_decisions
    assert read is not None
    read.zero_()
    assert model(**inputs, policy="global").gates.tolist() == [DECISION] * 4


def test_in_evaluation_it_rules_where_the_config_says_so(inputs: dict[str, Tensor]) -> None:
    """The network does not run then; in training it does, and a policy that is given wins."""
    model = adapt(eval_decisions="global")
    model.global_decisions = torch.tensor(DECISION)
    evaluated, forced = model(**inputs), model(**inputs, policy="frozen")
    assert evaluated.gates.tolist() == [DECISION] * 4
    assert evaluated.policy_logits is None
    assert not forced.gates.any()
    assert model.train()(**inputs).policy_logits is not None


@pytest.mark.parametrize("options", [{}, {"eval_decisions": "global"}])
def test_before_there_is_one_it_is_a_sentence(options: dict[str, Any], inputs: dict[str, Tensor]) -> None:
    model = adapt(**options)
    assert model.global_decisions is None
    with pytest.raises(UserError, match=r"no global decision yet: .* Train for an epoch, or set model.global_decis"):
        model(**inputs, **({} if options else {"policy": "global"}))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.ones(2), r"shape \[2\]; inputs and strategy need \[3\]"),
        (torch.ones(1, 3), r"shape \[1, 3\]"),
        (torch.tensor([0.5, 1.0, 0.0]), "must be 0"),
    ],
)
def test_impossible_global_decisions_are_refused(given: Tensor, told: str) -> None:
    model = adapt()
    model.global_decisions = torch.tensor(DECISION)
    with pytest.raises(ValueError, match=told):
        model.global_decisions = given
    assert model.global_decisions.tolist() == DECISION, "a refusal changes nothing"
    model.global_decisions = None
    assert model.global_decisions is None


def test_without_decisions_the_constants_are_global(inputs: dict[str, Tensor]) -> None:
    model = adapt("last_1", eval_decisions="global")
    assert torch.equal(model(**inputs).pooler_output, model(**inputs, policy="global").pooler_output)
    assert not torch.equal(model(**inputs).pooler_output, model(**inputs, policy="frozen").pooler_output)


def test_a_copy_has_its_own_decision(inputs: dict[str, Tensor]) -> None:
    model = adapt()
    twin = copy.deepcopy(model)
    twin.global_decisions = torch.tensor(DECISION)
    assert model.global_decisions is None
    assert "global" not in " ".join(twin.state_dict())


def test_disabled_means_frozen_whatever_is_global(inputs: dict[str, Tensor]) -> None:
    model = adapt(eval_decisions="global")
    model.global_decisions = torch.tensor(DECISION)
    with model.disable_adapter():
        assert not model(**inputs).gates.any()
        assert not model(**inputs, policy="global").gates.any()
    assert model(**inputs).gates.any()


@pytest.mark.parametrize("policy", [None, "frozen", torch.zeros(0, 3)])
def test_an_empty_batch_is_refused(policy: Any, inputs: dict[str, Tensor]) -> None:
    empty = {name: value[:0] for name, value in inputs.items()}
    with pytest.raises(ValueError, match=r"the batch is empty: \{'pixel_values': 0\}; give at least one sample\."):
        adapt()(**empty, policy=policy)


def test_inputs_without_a_tensor_are_refused() -> None:
    with pytest.raises(ValueError, match="no input is a tensor with a batch axis"):
        adapt()(policy="frozen")
