"""The public operations on the Triton path: plan, forward and backward through autograd, against two branches."""

import functools
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

import adaptive_ft_kernels
from adaptive_ft_kernels import Draws, gated_linear, path_on, plan_gates, reference, use_path
from tests.ops.linear_cases import GATES, draw, relative_error, run


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    use_path("triton")
    assert path_on("cpu") == "triton"
    yield
    use_path("auto")


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("num_components", [1, 3])
def test_linear_equals_the_reference(kind: str, num_components: int) -> None:
    inputs = draw(GATES[kind](5, num_components), (7,), block=24, num_inputs=40).to(torch.float32)
    inputs.gates = inputs.gates.detach().float().requires_grad_()
    grad = torch.randn(5, 7, 24 * num_components)
    truth = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    for name, value in run(gated_linear, inputs, grad).items():
        if truth[name].norm() > 0:
            assert relative_error(value, truth[name]) <= 2e-6, name
        else:
            assert not value.any(), name


@pytest.mark.parametrize("num_components", [1, 2])
def test_linear_takes_operands_of_any_layout(num_components: int) -> None:
    """Strided, expanded, and starting off 16 bytes."""
    inputs = draw(GATES["random"](4, num_components), (20,), block=64, num_inputs=64).to(torch.float32)
    inputs.gates = inputs.gates.detach().float().requires_grad_()
    grad = torch.randn(64 * num_components).expand(4, 20, 64 * num_components)
    expected = run(gated_linear, inputs, grad.contiguous())
    x, weight, delta_weight = (value.detach() for value in (inputs.x, inputs.weight, inputs.delta_weight))
    inputs.weight, inputs.delta_weight = weight.T.contiguous().T, delta_weight.T.contiguous().T.requires_grad_()
    part_of_wider = torch.empty(4, 20, 100)[..., 7:71]
    off_16_bytes = torch.empty(x.numel() + 1)[1:].view(x.shape)
    for place in (part_of_wider, torch.empty(20, 4, 64).transpose(0, 1), off_16_bytes):
        inputs.x = place.copy_(x).requires_grad_()
        for name, value in run(gated_linear, inputs, grad).items():
            assert relative_error(value, expected[name]) <= 2e-6, name


def test_linear_evaluates_the_sampled_gates_alone() -> None:
    inputs = draw(GATES["random"](8, 3), (5,), block=24, num_inputs=40).to(torch.float32)
    grad = torch.randn(8, 5, 72)
    plan = plan_gates(inputs.gates, gate_grad_fraction=0.25, draws=Draws(0))
    whole = run(gated_linear, inputs, grad)["gates"]
    part = run(functools.partial(gated_linear, plan=plan), inputs, grad)["gates"]
    factors = torch.zeros(3, 8).scatter_(1, plan.sampled_CM.long(), 4.0).T
    assert relative_error(part, whole * factors) <= 1e-5


def test_what_the_operators_return_shares_no_memory() -> None:
    """As their schema promises; nothing but a look at the storage shows it."""
    inputs = draw(GATES["random"](4, 3), (5,), block=24, num_inputs=40).to(torch.float32)
    plan = plan_gates(inputs.gates)
    x, _, weight, bias, delta_weight, delta_bias = (value.detach() for value in inputs.arguments())
    order_and_counts = (plan.order_CB, plan.num_frozen_C)
    operators = torch.ops.adaptive_ft
    check = functools.partial(torch.library.opcheck, test_utils="test_schema")
    check(operators.gated_linear.default, (x, weight, bias, delta_weight, delta_bias, *order_and_counts))
    arguments = (weight, delta_weight, delta_bias, *order_and_counts, plan.sampled_CM, [True, True, True])
    check(operators.gated_linear_backward.default, (torch.randn(4, 5, 72), x, *arguments))


@pytest.mark.parametrize("operation", ["norm", "mix"])
def test_norm_and_mix_equal_the_reference(operation: str) -> None:
    gates = GATES["random"](5, 1)
    x, other, grad = (torch.randn(5, 7, 40) for _ in range(3))
    parameters = [torch.randn(40) for _ in range(4)]

    def both(code: ModuleType, dtype: torch.dtype) -> list[Tensor]:
        """The output and the gradient of x."""
        rows = x.to(dtype).requires_grad_()
        if operation == "norm":
            y = code.gated_layer_norm(rows, gates, *(value.to(dtype) for value in parameters), 1e-5)
        else:
            y = code.gated_mix(rows, other.to(dtype), gates)
        return [y.detach(), *torch.autograd.grad(y, rows, grad.to(dtype))]

    for ours, truth in zip(both(adaptive_ft_kernels, torch.float32), both(reference, torch.float64), strict=True):
        assert relative_error(ours, truth) <= 5e-6
