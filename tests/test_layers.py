"""Gated leaf modules: names, folding, copies, recomputation, shared use."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLayerNorm, GatedLinear


class Block(nn.Module):
    """Two heads' projection (columns 0, 1), an output (2) and its norm (2); the projection runs twice."""

    def __init__(self, holder: GateHolder, bias: bool = True) -> None:
        super().__init__()
        self.holder = holder
        self.project = GatedLinear.from_linear(nn.Linear(6, 6, bias), holder, 0, 2, "project")
        self.output = GatedLinear.from_linear(nn.Linear(6, 6, bias), holder, 2, 3, "output")
        self.norm = GatedLayerNorm.from_layer_norm(nn.LayerNorm(6, eps=1e-12), holder, 2, 3, "norm")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.output(torch.tanh(self.project(torch.tanh(self.project(x))))))


def moved(module: nn.Module) -> nn.Module:
    """The module with deltas (and, in place of ones and zeros, norms) worth telling apart."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def gradients(block: Block, gates: Tensor, x: Tensor, recompute: bool) -> list[Tensor]:
    gates, x = gates.clone().requires_grad_(), x.clone().requires_grad_()
    block.holder.set(gates)
    y = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    trained = [parameter for parameter in block.parameters() if parameter.requires_grad]
    return [y, *torch.autograd.grad(y.square().sum(), [gates, x, *trained])]


def test_keeps_the_pretrained_tensors_under_their_names_and_starts_from_them() -> None:
    linear, norm = nn.Linear(6, 4), nn.LayerNorm(6)
    holder = GateHolder()
    for plain, gated in (
        (linear, GatedLinear.from_linear(linear, holder, 0, 2, "linear")),
        (norm, GatedLayerNorm.from_layer_norm(norm, holder, 2, 3, "norm")),
    ):
        assert gated.weight is plain.weight
        assert gated.bias is plain.bias
        assert set(gated.state_dict()) == {"weight", "bias", "delta_weight", "delta_bias"}
        assert {name for name, parameter in gated.named_parameters() if parameter.requires_grad} == {
            "delta_weight",
            "delta_bias",
        }
        holder.set(torch.ones(3, 3))
        x = torch.randn(3, 5, 6)
        assert torch.equal(gated(x), plain(x))


def test_a_linear_without_bias_stays_without() -> None:
    linear = nn.Linear(6, 4, bias=False)
    gated = GatedLinear.from_linear(linear, GateHolder(), 0, 1, "linear")
    assert set(gated.state_dict()) == {"weight", "delta_weight"}
    assert gated.tuned_bias() is None
    gated.holder.set(torch.ones(2, 1))
    x = torch.randn(2, 6)
    assert torch.equal(gated(x), gated.to_plain(torch.ones(1))(x))


@pytest.mark.parametrize("decisions", [(0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 1, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_plain_modules_give_the_output_of_the_folded_decisions(decisions: tuple[int, ...], bias: bool) -> None:
    block = moved(Block(GateHolder(), bias))
    tuned = torch.tensor(decisions)
    block.holder.set(tuned.float().expand(4, 3))
    x = torch.randn(4, 5, 6)
    expected = block(x)
    for name, columns in (("project", slice(0, 2)), ("output", slice(2, 3)), ("norm", slice(2, 3))):
        setattr(block, name, getattr(block, name).to_plain(tuned[columns]))
    assert {type(module) for module in block.children()} == {nn.Linear, nn.LayerNorm}
    torch.testing.assert_close(block(x), expected)


def test_folding_leaves_the_gated_module_as_it_was_and_takes_its_mode() -> None:
    gated = moved(GatedLinear.from_linear(nn.Linear(6, 4), GateHolder(), 0, 2, "linear")).eval()
    frozen = gated.to_plain(torch.zeros(2))
    assert torch.equal(frozen.weight, gated.weight)
    assert frozen.weight is not gated.weight
    assert frozen.weight.requires_grad
    assert not frozen.training
    assert torch.equal(gated.to_plain(torch.ones(2)).weight, gated.tuned_weight())


def test_sixteen_bit_tuned_weight_is_the_rounded_float32_sum() -> None:
    gated = moved(GatedLinear.from_linear(nn.Linear(64, 64), GateHolder(), 0, 1, "linear")).bfloat16()
    in_float32 = gated.weight.float() + gated.delta_weight.float()
    assert torch.equal(gated.tuned_weight(), in_float32.bfloat16())


def test_recomputed_activations_see_the_same_gates() -> None:
    block, x = moved(Block(GateHolder())), torch.randn(5, 4, 6)
    gates = torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]])
    for plain, recomputed in zip(gradients(block, gates, x, False), gradients(block, gates, x, True), strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_every_delta_gets_a_gradient_whatever_the_gates(value: float) -> None:
    block = moved(Block(GateHolder()))
    block.holder.set(torch.full((3, 3), value))
    block(torch.randn(3, 2, 6)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert (parameter.grad is not None) == ("delta" in name)
        if parameter.grad is not None:
            assert parameter.grad.any().item() == bool(value)


def test_a_deep_copy_shares_one_new_holder() -> None:
    block = moved(Block(GateHolder()))
    block.holder.set(torch.zeros(3, 3, requires_grad=True) * 1)
    twin = copy.deepcopy(block)
    assert twin.holder is not block.holder
    assert twin.project.holder is twin.output.holder is twin.norm.holder is twin.holder
    twin.holder.set(torch.ones(2, 3))
    assert twin(torch.randn(2, 4, 6)).shape == (2, 4, 6)
    assert block(torch.randn(3, 4, 6)).shape == (3, 4, 6)


def test_permuting_the_batch_permutes_the_result() -> None:
    block, x = moved(Block(GateHolder())), torch.randn(5, 4, 6)
    gates, order = torch.rand(5, 3).round(), torch.tensor([3, 0, 4, 1, 2])
    block.holder.set(gates)
    y = block(x)
    block.holder.set(gates[order])
    torch.testing.assert_close(block(x[order]), y[order])


def test_flipping_any_gate_changes_that_sample_and_no_other() -> None:
    block, x, gates = moved(Block(GateHolder())), torch.randn(4, 3, 6), torch.rand(4, 3).round()
    block.holder.set(gates)
    y = block(x)
    for column in range(3):
        flipped = gates.clone()
        flipped[1, column] = 1 - flipped[1, column]
        block.holder.set(flipped)
        changed = (block(x) - y).abs().amax((1, 2)) > 1e-4
        assert changed.tolist() == [False, True, False, False]


def test_wrong_batch_names_the_module_and_both_numbers() -> None:
    block = Block(GateHolder())
    block.holder.set(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="project got a batch of 2 but the gates are for 3 samples"):
        block(torch.randn(2, 4, 6))


def test_building_refuses_what_cannot_be_gated() -> None:
    holder = GateHolder()
    with pytest.raises(ValueError, match="query: 4 outputs cannot be split evenly over 3 components"):
        GatedLinear.from_linear(nn.Linear(6, 4), holder, 0, 3, "query")
    with pytest.raises(ValueError, match="norm: only a LayerNorm over one axis with weight and bias"):
        GatedLayerNorm.from_layer_norm(nn.LayerNorm(6, bias=False), holder, 0, 1, "norm")
    with pytest.raises(ValueError, match="norm: a LayerNorm is one component but was given gate columns 0:2"):
        GatedLayerNorm.from_layer_norm(nn.LayerNorm(6), holder, 0, 2, "norm")


@pytest.mark.parametrize("decisions", [[1], [1, 0, 1], [0.5, 1]])
def test_folding_refuses_decisions_that_do_not_fit(decisions: list[float]) -> None:
    gated = GatedLinear.from_linear(nn.Linear(6, 4), GateHolder(), 0, 2, "query")
    with pytest.raises(ValueError, match="query needs 2 decisions, each 0"):
        gated.to_plain(torch.tensor(decisions))


def test_representation_tells_sizes_and_columns() -> None:
    block = Block(GateHolder())
    assert repr(block.project) == "GatedLinear(in_features=6, out_features=6, bias=True, gates=0:2)"
    assert repr(block.norm) == "GatedLayerNorm(6, eps=1e-12, gates=2:3)"
