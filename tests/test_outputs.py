"""An adapted model's output is its base's, with two fields that survive being taken apart and copied.

Shape suffixes: B batch, D decisions; x2 = (frozen, tuned).
"""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput

from adaptive_ft import AdaptiveConfig, PolicyConfig, get_adaptive_model
from adaptive_ft.outputs import with_gates
from tests.models.tiny_families import LXMERT, TINY, Family


def taken_apart(output: ModelOutput) -> ModelOutput:
    """As DistributedDataParallel does with every output while it looks for unused parameters."""
    leaves, spec = pytree.tree_flatten(output)
    again: ModelOutput = pytree.tree_unflatten(leaves, spec)
    return again


WAYS = {
    "taken apart": taken_apart,
    "pickled": lambda output: pickle.loads(pickle.dumps(output)),
    "copied": copy.deepcopy,
    "by keys": lambda output: type(output)(dict(output)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("logits_BD2", [torch.rand(2, 3, 2), None], ids=["network", "forced"])
def test_an_output_is_whole_again(logits_BD2: Tensor | None, way: str) -> None:
    """Also when the network did not run: then the field is None and no key."""
    base = ImageClassifierOutput(loss=torch.tensor(2.0), logits=torch.rand(2, 4))
    made = with_gates(base, torch.ones(2, 3), logits_BD2)
    assert isinstance(made, ImageClassifierOutput)
    again: Any = WAYS[way](made)
    assert type(again) is type(made)
    assert list(again) == ["loss", "logits", "gates"] + (["policy_logits"] if logits_BD2 is not None else [])
    for name, value in made.items():
        assert torch.equal(again[name], value)
    assert (again.policy_logits is None) == (logits_BD2 is None)
    assert again.hidden_states is None


@pytest.mark.parametrize("family", [*TINY.values(), LXMERT], ids=[*TINY, "lxmert"])
def test_every_familys_output_has_the_fields(family: Family) -> None:
    base, inputs = family.build(), family.inputs(2)
    with torch.no_grad():
        expected = base(**inputs)
        policy = PolicyConfig(embedding_size=4, hidden_size=8)
        model = get_adaptive_model(base, AdaptiveConfig("spottune", policy=policy)).eval()
        found = taken_apart(model(**inputs, policy="frozen"))
    assert isinstance(found, type(expected))
    assert list(found) == [*expected, "gates"]
    torch.testing.assert_close({name: found[name] for name in expected}, dict(expected), rtol=0, atol=0)
    assert found["gates"].shape == (2, len(model.decisions))
