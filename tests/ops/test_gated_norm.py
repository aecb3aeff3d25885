"""gated_layer_norm against the two-branch reference: forward, every gradient, every kind of gates.

Uninitialised memory is filled with NaN, so that a row nobody wrote shows itself.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft_kernels import gated_layer_norm, plan_gates, reference

EPS = 1e-5
NAMES = ("x", "gates", "weight", "bias", "delta_weight", "delta_bias")
DIFFERENTIABLE = ("x", "gates", "delta_weight", "delta_bias")
GATES: dict[str, Callable[[int], Tensor]] = {
    "all frozen": lambda B: torch.zeros(B, 1),
    "all tuned": lambda B: torch.ones(B, 1),
    "one sample tuned": lambda B: torch.eye(B)[:, :1],
    "alternating": lambda B: torch.arange(B).remainder(2)[:, None],
}


@pytest.fixture(autouse=True)
def nan_filled_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def leaves(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same numbers as fresh leaves in `dtype`; the gates stay float32."""
    moved = {name: value.detach().to(torch.float32 if name == "gates" else dtype) for name, value in values.items()}
    return {name: value.requires_grad_(name in DIFFERENTIABLE) for name, value in moved.items()}


def draw(gates: Tensor, inner: tuple[int, ...] = (5,), num_features: int = 6) -> dict[str, Tensor]:
    """Random float64 arguments for these gates."""
    vectors = torch.randn(4, num_features)
    values = dict(zip(NAMES[2:], vectors, strict=True))
    x = torch.randn(len(gates), *inner, num_features) + 0.5
    return leaves({"x": x, "gates": gates, **values}, torch.float64)


def run(operation: Callable[..., Tensor], inputs: dict[str, Tensor], grad: Tensor) -> dict[str, Tensor]:
    """The output and every gradient by name."""
    y = operation(*(inputs[name] for name in NAMES), EPS)
    gradients = torch.autograd.grad(y, [inputs[name] for name in DIFFERENTIABLE], grad.to(y.dtype))
    return {"y": y.detach(), **dict(zip(DIFFERENTIABLE, gradients, strict=True))}


def relative_error(value: Tensor, truth: Tensor) -> float:
    difference = (value.double() - truth.double()).norm()
    return float(difference / truth.double().norm().clamp_min(1e-30))


def check_against_reference(inputs: dict[str, Tensor], grad: Tensor | None = None) -> None:
    # float32 gates would round the reference's own gate gradient.
    inputs["gates"] = inputs["gates"].detach().double().requires_grad_()
    grad = torch.randn(inputs["x"].shape, dtype=torch.float64) if grad is None else grad
    truth = run(reference.gated_layer_norm, inputs, grad)
    for name, value in run(gated_layer_norm, inputs, grad).items():
        assert value.shape == truth[name].shape, name
        assert relative_error(value, truth[name]) <= 1e-9, name


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("num_samples", [1, 2, 9])
@pytest.mark.parametrize("inner", [(), (1,), (7,), (65,), (3, 5)])
def test_equals_reference(kind: str, num_samples: int, inner: tuple[int, ...]) -> None:
    check_against_reference(draw(GATES[kind](num_samples), inner))


@pytest.mark.parametrize("kind", GATES)
def test_takes_an_expanded_gradient_as_sum_gives_it(kind: str) -> None:
    check_against_reference(draw(GATES[kind](5)), torch.ones((), dtype=torch.float64).expand(5, 5, 6))


@pytest.mark.parametrize("kind", GATES)
def test_takes_a_strided_input_and_gradient(kind: str) -> None:
    inputs = draw(GATES[kind](5))
    inputs["x"] = torch.randn(6, 7, 5, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    check_against_reference(inputs, torch.randn(6, 5, 7, dtype=torch.float64).permute(1, 2, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_sample_gets_the_bits_of_layer_norm(dtype: torch.dtype) -> None:
    inputs = leaves(draw(GATES["alternating"](5)), dtype)
    x, _, weight, bias, delta_weight, delta_bias = (inputs[name] for name in NAMES)
    wide = torch.promote_types(dtype, torch.float32)
    tuned_weight = (weight.to(wide) + delta_weight.to(wide)).to(dtype)
    tuned_bias = (bias.to(wide) + delta_bias.to(wide)).to(dtype)
    frozen = F.layer_norm(x, (6,), weight, bias, EPS)
    tuned = F.layer_norm(x, (6,), tuned_weight, tuned_bias, EPS)
    for gates in (make(5) for make in GATES.values()):
        y = gated_layer_norm(x, gates, weight, bias, delta_weight, delta_bias, EPS)
        assert torch.equal(y, torch.where(gates[:, :, None] == 1, tuned, frozen))


@pytest.mark.parametrize("gates", [torch.zeros(3, 1), torch.zeros(0, 1)], ids=["all frozen", "empty batch"])
def test_deltas_get_zeros_when_no_sample_is_tuned(gates: Tensor) -> None:
    inputs = draw(gates)
    gradients = run(gated_layer_norm, inputs, torch.ones(inputs["x"].shape))
    assert torch.equal(gradients["delta_weight"], torch.zeros(6, dtype=torch.float64))
    assert torch.equal(gradients["delta_bias"], torch.zeros(6, dtype=torch.float64))
    assert gradients["gates"].shape == gates.shape


def test_leaves_its_inputs_alone_and_frozen_parameters_without_gradient() -> None:
    inputs = draw(GATES["alternating"](4))
    inputs["weight"].requires_grad_()
    inputs["bias"].requires_grad_()
    grad = torch.randn(4, 5, 6, dtype=torch.float64)
    before = [value.detach().clone() for value in [*inputs.values(), grad]]
    gated_layer_norm(*(inputs[name] for name in NAMES), EPS).backward(grad)
    assert all(torch.equal(new, old) for new, old in zip([*inputs.values(), grad], before, strict=True))
    assert inputs["weight"].grad is None
    assert inputs["bias"].grad is None


@pytest.mark.parametrize("kind", GATES)
def test_bfloat16_is_as_exact_as_the_two_branch_way(kind: str) -> None:
    """Error against a float32 truth at most twice that of PyTorch in bfloat16; for gates at most 5e-3."""
    inputs = leaves(draw(GATES[kind](8), inner=(20,), num_features=96), torch.bfloat16)
    grad = torch.randn(8, 20, 96).bfloat16()
    truth = run(reference.gated_layer_norm, leaves(inputs, torch.float32), grad.float())
    ours, theirs = run(gated_layer_norm, inputs, grad), run(reference.gated_layer_norm, inputs, grad)
    for name in ("y", "x", "delta_weight", "delta_bias"):
        assert ours[name].dtype == torch.bfloat16
        assert relative_error(ours[name], truth[name]) <= 2 * relative_error(theirs[name], truth[name]), name
    assert ours["gates"].dtype == torch.float32
    assert relative_error(ours["gates"], truth["gates"]) <= 5e-3


def test_autocast_gives_the_bits_and_dtype_of_layer_norm() -> None:
    inputs = leaves(draw(torch.zeros(4, 1), num_features=32), torch.float32)
    _, gates, weight, bias, delta_weight, delta_bias = (inputs[name] for name in NAMES)
    with torch.autocast("cpu", torch.bfloat16):
        for x in (inputs["x"], inputs["x"].bfloat16()):
            ordinary = F.layer_norm(x, (32,), weight, bias, EPS)
            y = gated_layer_norm(x, gates, weight, bias, delta_weight, delta_bias, EPS)
            assert y.dtype == ordinary.dtype
            assert torch.equal(y, ordinary)
            y.sum().backward()
    assert inputs["delta_weight"].grad.dtype == torch.float32


def test_backward_keeps_float32_inside_autocast() -> None:
    inputs = leaves(draw(GATES["alternating"](4)), torch.float32)
    y, grad = gated_layer_norm(*(inputs[name] for name in NAMES), EPS), torch.randn(4, 5, 6)
    wanted = [inputs[name] for name in DIFFERENTIABLE]
    truth = torch.autograd.grad(y, wanted, grad, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(y, wanted, grad)
    assert all(torch.equal(ours, expected) for ours, expected in zip(inside, truth, strict=True))


def test_refuses_shapes_that_do_not_fit() -> None:
    x, gates, *parameters = (draw(torch.zeros(3, 1))[name] for name in NAMES)
    with pytest.raises(ValueError, match=r"must be \[samples, ..., 6\], got \[3, 5, 4\]"):
        gated_layer_norm(x[..., :4], gates, *parameters, EPS)
    with pytest.raises(ValueError, match=r"holds 2 samples .* got gates \[3, 1\]"):
        gated_layer_norm(x[:2], gates, *parameters, EPS)
    with pytest.raises(ValueError, match="a plan for 4 samples"):
        gated_layer_norm(x, gates, *parameters, EPS, plan=plan_gates(torch.zeros(4, 1)))
