"""gated_layer_norm against the two-branch reference: forward, every gradient, every kind of gates.

Uninitialised memory is filled with NaN, so that a row nobody wrote shows itself.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_residual_is_added_first(kind: str, dtype: torch.dtype) -> None:
    """The bits of the norm of the sum; both summands get the gradient of the sum."""
    inputs, grad = leaves(draw(GATES[kind](5)), dtype), torch.randn(5, 5, 6).to(dtype)
    residual = torch.randn(5, 5, 6).to(dtype).requires_grad_()
    fused = gated_layer_norm(*(inputs[name] for name in NAMES), EPS, residual=residual)
    wanted = [inputs["x"], residual, *(inputs[name] for name in DIFFERENTIABLE[1:])]
    apart = gated_layer_norm(inputs["x"] + residual, *(inputs[name] for name in NAMES[1:]), EPS)
    assert torch.equal(fused, apart)
    gradients, expected = (torch.autograd.grad(y, wanted, grad) for y in (fused, apart))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients, expected, strict=True))


def test_a_residual_of_another_dtype_gives_the_common_one() -> None:
    inputs = leaves(draw(GATES["alternating"](5)), torch.float32)
    x, *rest = (inputs[name] for name in NAMES)
    x = x.detach().bfloat16().requires_grad_()
    residual = torch.randn(5, 5, 6, requires_grad=True)
    y = gated_layer_norm(x, *rest, EPS, residual=residual)
    assert torch.equal(y, gated_layer_norm(x + residual, *rest, EPS))
    y.sum().backward()
    assert (x.grad.dtype, residual.grad.dtype) == (torch.bfloat16, torch.float32)


def test_only_what_needs_a_gradient_gets_one() -> None:
    inputs = draw(GATES["alternating"](5))
    for name in NAMES:
        arguments = [inputs[other].detach() for other in NAMES]
        arguments[NAMES.index(name)].requires_grad_()
        y = gated_layer_norm(*arguments, EPS)
        assert y.requires_grad
        y.sum().backward()
        assert [argument.grad is not None for argument in arguments] == [
            other == name and name in DIFFERENTIABLE for other in NAMES
        ]


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
    with pytest.raises(ValueError, match=r"delta_bias must be \[6\] like the weight, got \[1\]"):
        gated_layer_norm(x, gates, *parameters[:3], parameters[3][:1], EPS)
    with pytest.raises(ValueError, match="the plan covers 4 samples"):
        gated_layer_norm(x, gates, *parameters, EPS, plan=plan_gates(torch.zeros(4, 1)))
    with pytest.raises(ValueError, match=r"residual must have the shape of x, \[3, 5, 6\], got \[3, 1, 6\]"):
        gated_layer_norm(x, gates, *parameters, EPS, residual=x[:, :1])


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_operators_keep_the_rules_of_torch_library(kind: str, with_residual: bool) -> None:
    inputs = leaves(draw(GATES[kind](5)), torch.float32)
    x, gates, *parameters = (inputs[name].detach() for name in NAMES)
    residual = torch.randn(5, 5, 6) if with_residual else None
    operators = torch.ops.adaptive_ft
    arguments = (x, residual, gates, *parameters, EPS, torch.float32)
    torch.library.opcheck(operators.gated_layer_norm.default, arguments)
    _, _, mean, rstd = operators.gated_layer_norm(*arguments)
    weight, _, delta_weight, delta_bias = parameters
    torch.library.opcheck(
        operators.gated_layer_norm_backward.default,
        (torch.randn(5, 5, 6), x, mean, rstd, gates, weight, delta_weight, delta_bias),
    )


def test_compiles_whole_and_recomputes_alike() -> None:
    inputs = leaves(draw(GATES["alternating"](5)), torch.float32)
    plan, grad = plan_gates(inputs["gates"]), torch.randn(5, 5, 6)

    def operation(*arguments: Tensor) -> Tensor:
        return gated_layer_norm(*arguments, EPS, residual=arguments[0].relu(), plan=plan)

    def recomputed(*arguments: Tensor) -> Tensor:
        return checkpoint(operation, *arguments, use_reentrant=False)

    eager = operation(*(inputs[name] for name in NAMES))
    wanted = [inputs[name] for name in DIFFERENTIABLE]
    expected = [eager, *torch.autograd.grad(eager, wanted, grad)]
    for way in (torch.compile(operation, fullgraph=True, backend="aot_eager"), recomputed):
        y = way(*(inputs[name] for name in NAMES))
        for ours, theirs in zip([y, *torch.autograd.grad(y, wanted, grad)], expected, strict=True):
            assert torch.equal(ours, theirs)
