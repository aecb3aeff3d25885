"""BlockDrop: what a layer is given beside its input is split with the samples, or refused where it cannot be.

Shape suffixes: B batch, D decisions.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from adaptive_ft import AdaptiveConfig, PolicyConfig, get_adaptive_model
from adaptive_ft.bypass import bypass
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder
from tests.models.tiny_families import TINY


@pytest.mark.filterwarnings("ignore:.*flex_attention called without")
@pytest.mark.parametrize("name", ["bert", "vl_bert"])
def test_flex_attention_is_refused_where_samples_differ(name: str) -> None:
    """Its mask is no tensor of rows: sample u of those that use a layer would get the padding of sample number u."""
    base, inputs = TINY[name].build(), TINY[name].inputs(3)
    base.set_attn_implementation("flex_attention")
    plain = copy.deepcopy(base)
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    model = get_adaptive_model(base, AdaptiveConfig("blockdrop", policy=policy)).eval()
    gates_BD = torch.ones(3, len(model.decisions))
    gates_BD[0, 1] = 0
    told = r'encoder\.layer\.1 is given a BlockMask, .* load the model with attn_implementation="sdpa" or "eager"'
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found, expected = model(**inputs, policy="used"), plain(**inputs)
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state), "nothing has to be split"
        with pytest.raises(UserError, match=told):
            model(**inputs, policy=gates_BD)


class Biased(nn.Module):
    """A layer that is given more than tensors of rows."""

    def forward(self, x: Tensor, bias: Any, flag: bool = True) -> Tensor:
        values, (more, scale) = bias["values"], bias["more"]
        return (x + values + more) * scale if flag else x


def test_containers_are_split_and_what_else_is_given_is_refused() -> None:
    """Rows inside tuples and dicts are those of the samples that use the layer, numbers are everybody's."""
    layer, holder = Biased(), GateHolder()
    bypass(layer, holder, 0, ["x"], "layer.0")
    holder.set(torch.tensor([[0.0], [1.0], [1.0]]))
    x = torch.zeros(3, 2)
    rows = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    found = layer(x, {"values": rows, "more": (10 * rows, 2.0)}, flag=True)
    assert found.tolist() == [[0.0, 0.0], [44.0, 44.0], [66.0, 66.0]]
    with pytest.raises(UserError, match=r"layer\.0 is given a DynamicCache, which cannot be split"):
        layer(x, {"values": rows, "more": (DynamicCache(), 2.0)})
