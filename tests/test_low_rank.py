"""Gated linear layers with deltas of low rank: formula, gradients, what they keep, folding, dtypes, refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLinear
from adaptive_ft.low_rank import LowRankLinear, linear_form
from tests.models.tiny_families import TINY

RANK, INPUTS, OUTPUTS = 3, 10, 12


def low_rank(num_components: int, bias: bool = True, holder: GateHolder | None = None) -> LowRankLinear:
    """A layer whose deltas have been learned."""
    holder = GateHolder() if holder is None else holder
    layer = LowRankLinear.from_linear(nn.Linear(INPUTS, OUTPUTS, bias), holder, 0, num_components, "query", rank=RANK)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.3)
    return layer


def two_branches(layer: LowRankLinear, x: Tensor, gates_BC: Tensor) -> Tensor:
    """Both products in full, mixed by the gates."""
    block = OUTPUTS // gates_BC.shape[1]
    gates = gates_BC.repeat_interleave(block, dim=1).view(len(x), *[1] * (x.dim() - 2), OUTPUTS)
    bias = None if layer.bias is None or layer.delta_bias is None else layer.bias + layer.delta_bias
    tuned = F.linear(x, layer.weight + layer.delta_up @ layer.delta_down, bias)
    return gates * tuned + (1 - gates) * F.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("num_components", [1, 4])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [(), (5,), (2, 3)], ids=str)
def test_output_and_gradients_are_those_of_two_branches(num_components: int, bias: bool, rows: tuple[int, ...]) -> None:
    layer = low_rank(num_components, bias).double()
    x = torch.randn(6, *rows, INPUTS, dtype=torch.float64, requires_grad=True)
    gates_BC = torch.randint(2, (6, num_components)).double().requires_grad_()
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert len(trained) == (3 if bias else 2)
    layer.holder.set(gates_BC)
    ours, theirs = layer(x), two_branches(layer, x, gates_BC)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    direction = torch.randn_like(theirs)
    wanted = [x, gates_BC, *trained]
    for found, expected in zip(
        torch.autograd.grad(ours, wanted, direction), torch.autograd.grad(theirs, wanted, direction), strict=True
    ):
        assert (found - expected).norm() <= 1e-9 * expected.norm()


def test_starts_from_the_pretrained_weight_and_every_delta_but_down_learns_at_once() -> None:
    linear = nn.Linear(INPUTS, OUTPUTS)
    layer = LowRankLinear.from_linear(linear, GateHolder(), 0, 4, "query", rank=RANK)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert set(layer.state_dict()) == {"weight", "bias", "delta_up", "delta_down", "delta_bias"}
    layer.holder.set(torch.ones(3, 4))
    x = torch.randn(3, 5, INPUTS)
    assert torch.equal(layer(x), linear(x))
    assert torch.equal(layer.tuned_weight(), linear.weight)
    layer(x).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    moved = {name for name, gradient in gradients.items() if gradient.any()}
    assert gradients.keys() == {"delta_up", "delta_down", "delta_bias"}
    assert moved == {"delta_up", "delta_bias"}, "down learns as soon as up is not zero"
    assert layer.delta_down.any()


def test_keeps_nothing_of_the_size_of_the_output_for_the_backward() -> None:
    batch, rows, heads, width = 4, 32, 4, 64
    layer = LowRankLinear.from_linear(nn.Linear(width, width), GateHolder(), 0, heads, "query", rank=2)
    layer.holder.set(torch.ones(batch, heads, requires_grad=True) * 1)
    x = torch.randn(batch, rows, width, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    for known in (x, *layer.parameters()):
        kept.pop(known.untyped_storage().data_ptr(), None)
    # Per row: 2 numbers and the bias's 1, once plain and once for each head.
    assert sum(kept.values()) <= 4 * (batch * rows * 3 * (1 + heads) + width * 3 + batch * heads)


@pytest.mark.parametrize("tuned", [(0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 0, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_linear_gives_the_output_of_the_folded_decisions(tuned: tuple[int, ...], bias: bool) -> None:
    layer = low_rank(4, bias)
    decisions_C = torch.tensor(tuned)
    layer.holder.set(decisions_C.float().expand(3, 4))
    x = torch.randn(3, 5, INPUTS)
    plain = layer.to_plain(decisions_C)
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain(x), layer(x))
    frozen_N = (decisions_C == 0).repeat_interleave(OUTPUTS // 4)
    assert torch.equal(plain.weight[frozen_N], layer.weight[frozen_N])


def test_frozen_gates_give_the_pretrained_output_bit_for_bit_in_bfloat16() -> None:
    layer = low_rank(4).bfloat16()
    layer.holder.set(torch.zeros(3, 4))
    x = torch.randn(3, 5, INPUTS, dtype=torch.bfloat16)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    in_float32 = layer.weight.float() + layer.delta_up.float() @ layer.delta_down.float()
    assert torch.equal(layer.tuned_weight(), in_float32.bfloat16())


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_comes_near_float32(how: str) -> None:
    layer, x = low_rank(4), torch.randn(3, 5, INPUTS)
    gates_BC = torch.randint(2, (3, 4)).float().requires_grad_()
    layer.holder.set(gates_BC)
    expected = layer(x)
    if how == "weights":
        layer, x = copy.deepcopy(layer).bfloat16(), x.bfloat16()
        layer.holder.set(gates_BC)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 0.02 * expected.norm()
    (slopes_BC,) = torch.autograd.grad(y.float().square().sum(), gates_BC)
    (wanted_BC,) = torch.autograd.grad(expected.square().sum(), gates_BC)
    assert (slopes_BC - wanted_BC).norm() < 0.05 * wanted_BC.norm()


def test_recomputed_activations_give_the_same_gradients() -> None:
    layer, x = low_rank(4), torch.randn(3, 5, INPUTS, requires_grad=True)
    layer.holder.set(torch.randint(2, (3, 4)).float().requires_grad_())
    wanted = [x, layer.delta_up, layer.delta_down]
    plain = torch.autograd.grad(layer(x).square().sum(), wanted)
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), wanted)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_compiles_into_one_graph() -> None:
    layer, x = low_rank(4), torch.randn(3, 5, INPUTS)
    layer.holder.set(torch.randint(2, (3, 4)).float())
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_the_share_of_gate_gradients_has_no_meaning() -> None:
    """All samples' gates get their gradient, whatever the share."""
    layer, x = low_rank(4, holder=GateHolder(0.25)), torch.randn(8, 5, INPUTS)
    gates_BC = torch.ones(8, 4, requires_grad=True)
    layer.holder.set(gates_BC)
    layer(x).square().sum().backward()
    assert gates_BC.grad is not None
    assert gates_BC.grad.all()


def test_a_rank_beyond_the_weight_is_refused_by_the_leafs_name() -> None:
    """The narrowest leaf decides; nothing of the model has been replaced."""
    base = TINY["bert"].build()
    modules = [type(module) for module in base.modules()]
    rank = base.config.hidden_size + 1
    with pytest.raises(UserError, match=rf"delta_rank is {rank}, but .*query has {rank - 1} inputs and {rank - 1} out"):
        get_adaptive_model(base, AdaptiveConfig(delta_rank=rank))
    assert [type(module) for module in base.modules()] == modules


def test_parameters_are_counted_as_deltas() -> None:
    base = TINY["bert"].build()
    hidden, inner, layers = base.config.hidden_size, base.config.intermediate_size, base.config.num_hidden_layers
    model = get_adaptive_model(base, AdaptiveConfig(strategy="standard", delta_rank=2))
    linears = 4 * (2 * 2 * hidden + hidden) + 2 * 2 * (hidden + inner) + inner + hidden
    assert model.count_parameters()["delta"] == layers * (linears + 2 * 2 * hidden)


def test_the_form_follows_the_rank() -> None:
    for rank, form in ((None, GatedLinear), (2, LowRankLinear)):
        layer = linear_form(rank)(nn.Linear(4, 4), GateHolder(), 0, 2, "query")
        assert type(layer) is form
    assert "rank=2" in repr(layer)
