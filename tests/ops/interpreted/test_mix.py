"""Triton's gated mix, run by the interpreter, against the two-branch way in float64."""

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import path_on, reference
from adaptive_ft_kernels.gated_mix import gated_mix
from adaptive_ft_kernels.triton_path import mix
from tests.ops.linear_cases import relative_error

RESULTS = ("y", "tuned", "frozen", "gates")


def draw(gates: Tensor, num_rows: int, num_features: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random grad, tuned and frozen beside these gates."""
    return [*torch.randn(3, len(gates), num_rows, num_features).to(dtype), gates]


def triton(arguments: list[Tensor]) -> dict[str, Tensor]:
    _, *inputs = arguments
    return dict(zip(RESULTS, (mix.forward(*inputs), *mix.backward(*arguments)), strict=True))


def truth(arguments: list[Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    grad, *inputs = (value.to(dtype) for value in arguments)
    leaves = [value.requires_grad_() for value in inputs]
    y = reference.gated_mix(*leaves)
    return dict(zip(RESULTS, (y.detach(), *torch.autograd.grad(y, leaves, grad)), strict=True))


@pytest.mark.parametrize("num_components", [1, 2, 12])
@pytest.mark.parametrize("shape", [(1, 1, 24), (5, 7, 96), (2, 33, 768), (3, 9, 1056)])
def test_equals_reference(shape: tuple[int, int, int], num_components: int) -> None:
    batch, num_rows, num_features = shape
    arguments = draw(torch.rand(batch, num_components), num_rows, num_features)
    before = [value.clone() for value in arguments]
    expected = truth(arguments)
    for name, value in triton(arguments).items():
        assert value.shape == expected[name].shape, name
        assert relative_error(value, expected[name]) <= 2e-6, name
    assert all(torch.equal(new, old) for new, old in zip(arguments, before, strict=True))


def test_gates_of_zero_and_one_give_one_branch_exactly() -> None:
    gates = (torch.rand(5, 4) < 0.5).float()
    _, tuned, frozen, _ = arguments = draw(gates, 3, 96)
    chosen = gates.repeat_interleave(24, dim=1)[:, None] == 1
    assert torch.equal(triton(arguments)["y"], torch.where(chosen, tuned, frozen))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, of the gate gradient
def test_an_infinity_of_the_other_branch_does_not_show() -> None:
    gates = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    grad, tuned, frozen, _ = arguments = draw(gates, 3, 48)
    chosen = gates.repeat_interleave(24, dim=1)[:, None].expand_as(tuned) == 1
    grad[0, 0, 0] = torch.inf
    tuned[~chosen], frozen[chosen] = torch.inf, torch.nan
    results = triton(arguments)
    assert torch.equal(results["y"], torch.where(chosen, tuned, frozen))
    assert torch.equal(results["tuned"], torch.where(chosen, grad, 0))
    assert torch.equal(results["frozen"], torch.where(chosen, 0, grad))


def test_float16_is_as_exact_as_the_two_branch_way() -> None:
    arguments = draw(torch.rand(4, 3), 5, 96, torch.float16)
    expected, theirs = truth(arguments), truth(arguments, torch.float16)
    for name, value in triton(arguments).items():
        assert value.dtype == (torch.float32 if name == "gates" else torch.float16), name
        assert relative_error(value, expected[name]) <= 2 * relative_error(theirs[name], expected[name]), name


def test_two_runs_are_equal_bit_for_bit() -> None:
    arguments = draw(torch.rand(4, 3), 70, 96)
    first, second = triton(arguments), triton(arguments)
    assert all(torch.equal(first[name], second[name]) for name in RESULTS)


def test_the_public_function_uses_these_kernels() -> None:
    assert path_on("cpu") == "triton"
    grad, *inputs = arguments = draw(torch.rand(4, 3), 7, 96)
    results = triton(arguments)
    leaves = [value.requires_grad_() for value in inputs]
    y = gated_mix(*leaves)
    for name, value in zip(RESULTS, (y, *torch.autograd.grad(y, leaves, grad)), strict=True):
        assert torch.equal(value, results[name]), name


def test_the_public_function_takes_strided_inputs_and_expanded_gradients() -> None:
    grad, tuned, frozen, gates = draw(torch.rand(4, 1), 7, 96)
    grad = grad[:, :1].expand(4, 7, 96)
    results = triton([grad.contiguous(), tuned, frozen, gates.expand(4, 3).contiguous()])
    strided = [value.mT.contiguous().mT.requires_grad_() for value in (tuned, frozen)]
    assert not any(value.is_contiguous() for value in strided)
    y = gated_mix(*strided, gates.expand(4, 3))
    for name, value in zip(RESULTS, (y, *torch.autograd.grad(y, strided, grad)), strict=False):
        assert torch.equal(value, results[name]), name
