"""gated_linear against the two-branch reference: forward, every gradient, every kind of gates.

Uninitialised memory is filled with NaN, so that a row nobody wrote shows itself.
"""

import functools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft_kernels import Draws, gated_linear, plan_gates, reference
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run


@pytest.fixture(autouse=True)
def nan_filled_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def check_against_reference(inputs: Inputs, grad: Tensor | None = None) -> None:
    if grad is None:
        grad = torch.randn(*inputs.x.shape[:-1], inputs.weight.shape[0], dtype=torch.float64)
    truth = run(reference.gated_linear, inputs, grad)
    for name, value in run(gated_linear, inputs, grad).items():
        assert value.shape == truth[name].shape, name
        assert relative_error(value, truth[name]) <= 1e-9, name


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("num_components", [1, 3, 12])
@pytest.mark.parametrize("num_samples", [1, 2, 9])
def test_equals_reference(kind: str, num_components: int, num_samples: int) -> None:
    check_against_reference(draw(GATES[kind](num_samples, num_components)))


@pytest.mark.parametrize("inner", [(), (1,), (7,), (65,), (3, 5), (0,)])
@pytest.mark.parametrize("num_components", [1, 4])
def test_equals_reference_for_any_inner_axes(inner: tuple[int, ...], num_components: int) -> None:
    check_against_reference(draw(GATES["random"](6, num_components), inner))


@pytest.mark.parametrize("kind", GATES)
def test_equals_reference_without_bias(kind: str) -> None:
    inputs = draw(GATES[kind](5, 3))
    inputs.bias = inputs.delta_bias = None
    check_against_reference(inputs)


@pytest.mark.parametrize("kind", GATES)
def test_takes_an_expanded_gradient_as_sum_gives_it(kind: str) -> None:
    inputs = draw(GATES[kind](5, 3))
    check_against_reference(inputs, torch.ones((), dtype=torch.float64).expand(5, 5, 12))


@pytest.mark.parametrize("kind", GATES)
def test_takes_a_strided_input_and_gradient(kind: str) -> None:
    inputs = draw(GATES[kind](5, 3))
    inputs.x = torch.randn(6, 7, 5, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    check_against_reference(inputs, torch.randn(12, 5, 7, dtype=torch.float64).permute(1, 2, 0))


def test_gradients_equal_finite_differences() -> None:
    inputs = draw(GATES["random"](4, 3), inner=(2,))

    def of_x_and_deltas(x: Tensor, delta_weight: Tensor, delta_bias: Tensor) -> Tensor:
        gates = inputs.gates.detach()
        return gated_linear(x, gates, inputs.weight, inputs.bias, delta_weight, delta_bias)

    assert torch.autograd.gradcheck(of_x_and_deltas, (inputs.x, inputs.delta_weight, inputs.delta_bias))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_components", [1, 4])
def test_uniform_gates_give_the_bits_of_linear(dtype: torch.dtype, num_components: int) -> None:
    x, _, weight, bias, delta_weight, delta_bias = draw(torch.zeros(3, num_components)).to(dtype).arguments()
    wide = torch.promote_types(dtype, torch.float32)
    tuned_weight = (weight.to(wide) + delta_weight.to(wide)).to(dtype)
    tuned_bias = (bias.to(wide) + delta_bias.to(wide)).to(dtype)
    frozen, tuned = torch.zeros(3, num_components), torch.ones(3, num_components)
    parameters = (weight, bias, delta_weight, delta_bias)
    assert torch.equal(gated_linear(x, frozen, *parameters), F.linear(x, weight, bias))
    assert torch.equal(gated_linear(x, tuned, *parameters), F.linear(x, tuned_weight, tuned_bias))


@pytest.mark.parametrize("gates", [torch.zeros(3, 2), torch.zeros(0, 2)], ids=["all frozen", "empty batch"])
def test_deltas_get_zeros_when_no_sample_is_tuned(gates: Tensor) -> None:
    inputs = draw(gates)
    gated_linear(*inputs.arguments()).sum().backward()
    assert torch.equal(inputs.delta_weight.grad, torch.zeros_like(inputs.delta_weight))
    assert torch.equal(inputs.delta_bias.grad, torch.zeros_like(inputs.delta_bias))
    assert inputs.gates.grad.shape == gates.shape
    assert inputs.x.grad.shape == inputs.x.shape


def test_frozen_parameters_never_get_a_gradient() -> None:
    inputs = draw(GATES["random"](4, 2))
    inputs.weight.requires_grad_()
    inputs.bias.requires_grad_()
    gated_linear(*inputs.arguments()).sum().backward()
    assert inputs.weight.grad is None
    assert inputs.bias.grad is None


def test_leaves_its_inputs_alone() -> None:
    inputs = draw(GATES["random"](4, 2))
    grad = torch.randn(4, 5, 8, dtype=torch.float64)
    before = [value.detach().clone() for value in [*inputs.arguments(), grad]]
    run(gated_linear, inputs, grad)
    assert all(torch.equal(new, old) for new, old in zip([*inputs.arguments(), grad], before, strict=True))


@pytest.mark.parametrize("kind", ["random", "all tuned", "same gates in all components"])
def test_bfloat16_is_as_exact_as_the_two_branch_way(kind: str) -> None:
    """Error against a float32 truth hardly above that of PyTorch in bfloat16.

    The gates have a rule of their own, since the two-branch way is wrong by 400 % there. Sums kept in bfloat16 break
    both: 1.9 times the error for x, 3e-3 for gates.
    """
    inputs = draw(GATES[kind](16, 12), inner=(20,), block=16, num_inputs=64, delta_scale=1e-3).to(torch.bfloat16)
    inputs.gates = inputs.gates.detach().float().requires_grad_()
    grad = torch.randn(16, 20, 192).bfloat16()
    truth = run(reference.gated_linear, inputs.to(torch.float32), grad.float())
    ours, theirs = run(gated_linear, inputs, grad), run(reference.gated_linear, inputs, grad)
    for name in ("y", "x", "delta_weight", "delta_bias"):
        assert ours[name].dtype == torch.bfloat16
        assert relative_error(ours[name], truth[name]) <= 1.3 * relative_error(theirs[name], truth[name]), name
    assert ours["gates"].dtype == torch.float32
    assert relative_error(ours["gates"], truth["gates"]) <= 2.5e-3


@pytest.mark.parametrize("kind", GATES)
def test_autocast_computes_in_bfloat16_and_keeps_deltas_in_float32(kind: str) -> None:
    inputs = draw(GATES[kind](8, 4), inner=(20,), block=16, num_inputs=64, delta_scale=1e-3).to(torch.float32)
    grad = torch.randn(8, 20, 64)
    truth = run(reference.gated_linear, inputs, grad)
    with torch.autocast("cpu", torch.bfloat16):  # backward inside too: it must not cast a second time
        ours = run(gated_linear, inputs, grad)
        ordinary = F.linear(inputs.x, inputs.weight, inputs.bias)
    assert ours["y"].dtype == torch.bfloat16
    if kind == "all frozen":
        assert torch.equal(ours["y"], ordinary)
    for name, value in inputs.differentiable().items():
        assert ours[name].dtype == value.dtype
    for name, value in ours.items():
        assert relative_error(value, truth[name]) <= 5e-3, name


def test_backward_keeps_float32_inside_autocast() -> None:
    inputs = draw(GATES["random"](4, 3)).to(torch.float32)
    y, grad = gated_linear(*inputs.arguments()), torch.randn(4, 5, 12)
    truth = torch.autograd.grad(y, list(inputs.differentiable().values()), grad, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(y, list(inputs.differentiable().values()), grad)
    assert all(torch.equal(ours, expected) for ours, expected in zip(inside, truth, strict=True))


def test_bfloat16_gates_get_bfloat16_gradients() -> None:
    inputs = draw(GATES["random"](4, 2)).to(torch.bfloat16)
    inputs.gates = inputs.gates.detach().bfloat16().requires_grad_()
    assert run(gated_linear, inputs, torch.ones(4, 5, 8))["gates"].dtype == torch.bfloat16


@pytest.mark.parametrize("num_components", [1, 3])
def test_a_share_of_the_gate_gradients_is_that_of_the_sampled_samples_rescaled(num_components: int) -> None:
    inputs = draw(GATES["random"](8, num_components))
    grad = torch.randn(8, 5, num_components * 4, dtype=torch.float64)
    whole = run(gated_linear, inputs, grad)
    plan = plan_gates(inputs.gates, gate_grad_fraction=0.25, draws=Draws())
    part = run(functools.partial(gated_linear, plan=plan), inputs, grad)
    sampled = torch.zeros(num_components, 8, dtype=torch.float64).scatter_(1, plan.sampled_CM.long(), 4.0).T
    assert relative_error(part.pop("gates"), whole.pop("gates") * sampled) <= 1e-12
    assert all(torch.equal(value, whole[name]) for name, value in part.items())


def test_refuses_shapes_that_do_not_fit() -> None:
    x, gates, weight, bias, delta_weight, delta_bias = draw(torch.zeros(3, 2)).arguments()
    parameters = (weight, bias, delta_weight, delta_bias)
    with pytest.raises(ValueError, match="holds 2 samples but the gates hold 3"):
        gated_linear(x[:2], gates, *parameters)
    with pytest.raises(ValueError, match=r"must be \[samples, ..., 6\], got \[3, 5, 4\]"):
        gated_linear(x[..., :4], gates, *parameters)
    with pytest.raises(ValueError, match="8 output columns cannot be split evenly over 3"):
        gated_linear(x, torch.zeros(3, 3), *parameters)
    with pytest.raises(ValueError, match="plan covers 3 samples and 1 components, the gates 3 and 2"):
        gated_linear(x, gates, *parameters, plan=plan_gates(torch.zeros(3, 1)))
    with pytest.raises(ValueError, match=r"delta_weight must be \[8, 6\] like the weight, got \[2, 6\]"):
        gated_linear(x, gates, weight, bias, delta_weight[:2], delta_bias)
    with pytest.raises(ValueError, match=r"delta_bias must be \[8\] like the weight, got \[1\]"):
        gated_linear(x, gates, weight, bias, delta_weight, delta_bias[:1])
    with pytest.raises(ValueError, match="both or neither"):
        gated_linear(x, gates, weight, bias, delta_weight, None)
    with pytest.raises(ValueError, match=r"x is torch\.float32 but the weight is torch\.float64"):
        gated_linear(x.float(), gates, *parameters)
