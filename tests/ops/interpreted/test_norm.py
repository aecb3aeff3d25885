"""Triton's gated layer norm, run by the interpreter, against the two-branch way in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import gated_layer_norm, path_on, reference
from adaptive_ft_kernels.triton_path import norm
from tests.ops.linear_cases import relative_error

EPS = 1e-5
RESULTS = ("y", "x", "gates", "delta_weight", "delta_bias")
GATES: dict[str, Callable[[int], Tensor]] = {
    "all frozen": lambda B: torch.zeros(B, 1),
    "all tuned": lambda B: torch.ones(B, 1),
    "one sample tuned": lambda B: torch.eye(B)[:, :1],
    "alternating": lambda B: torch.arange(B).remainder(2)[:, None].float(),
}


def draw(gates: Tensor, num_rows: int, num_features: int, dtype: torch.dtype) -> list[Tensor]:
    """Random grad, x, residual, gates, weight, bias, delta_weight, delta_bias."""
    tensors = torch.randn(3, len(gates), num_rows, num_features) + torch.tensor([0.0, 0.5, 0.0])[:, None, None, None]
    vectors = torch.randn(4, num_features) * torch.tensor([1, 1, 0.1, 0.1])[:, None]
    return [value.to(dtype) for value in tensors] + [gates] + [value.to(dtype) for value in vectors]


def triton(arguments: list[Tensor], with_residual: bool) -> dict[str, Tensor]:
    grad, x, residual, gates, *parameters = arguments
    dtype = grad.dtype
    y, total, mean, rstd = norm.forward(x, residual if with_residual else None, gates, *parameters, EPS, dtype)
    assert (mean.dtype, rstd.dtype, y.dtype) == (torch.float32, torch.float32, dtype)
    if with_residual:
        assert torch.equal(total, x + residual)
    weight, _, *deltas = parameters
    gradients = norm.backward(grad, total if with_residual else x, mean, rstd, gates, weight, *deltas)
    return dict(zip(RESULTS, (y, *gradients), strict=True))


def truth(arguments: list[Tensor], with_residual: bool, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    grad, x, residual, gates, *parameters = (value.to(dtype) for value in arguments)
    total = x + residual if with_residual else x
    weight, bias, *deltas = parameters
    leaves = [value.requires_grad_() for value in (total, gates, *deltas)]
    y = reference.gated_layer_norm(leaves[0], leaves[1], weight, bias, *leaves[2:], EPS)
    return dict(zip(RESULTS, (y.detach(), *torch.autograd.grad(y, leaves, grad)), strict=True))


def check(arguments: list[Tensor], with_residual: bool = False, bound: float = 5e-6) -> None:
    before = [value.clone() for value in arguments]
    results, expected = triton(arguments, with_residual), truth(arguments, with_residual)
    for name in RESULTS:
        assert results[name].shape == expected[name].shape, name
        # The gradient of a lone gate is one sum that may nearly cancel: 5.5e-6 in the worst of 12 draws.
        allowed = 4 * bound if name == "gates" and len(results["gates"]) == 1 else bound
        assert relative_error(results[name], expected[name]) <= allowed, name
    assert all(torch.equal(new, old) for new, old in zip(arguments, before, strict=True))


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("shape", [(1, 1, 40), (1, 7, 96), (5, 1, 96), (4, 9, 768), (3, 5, 1024), (2, 3, 1300)])
def test_equals_reference(shape: tuple[int, int, int], kind: str, with_residual: bool) -> None:
    batch, num_rows, num_features = shape
    check(draw(GATES[kind](batch), num_rows, num_features, torch.float32), with_residual)


def test_widest_rows() -> None:
    check(draw(GATES["alternating"](2), 3, norm.WIDEST, torch.float32))
    with pytest.raises(ValueError, match="at most 4096 features, not 4097"):
        check(draw(GATES["alternating"](2), 3, norm.WIDEST + 1, torch.float32))


def test_takes_a_column_of_many_gates() -> None:
    gates = (torch.rand(6, 11) < 0.5).float()
    check(draw(gates[:, 4:5], 3, 96, torch.float32))


def test_a_residual_is_added_and_rounded_first() -> None:
    grad, x, residual, *rest = draw(GATES["alternating"](4), 5, 96, torch.float16)
    fused, apart = triton([grad, x, residual, *rest], True), triton([grad, x + residual, residual, *rest], False)
    assert all(torch.equal(fused[name], apart[name]) for name in RESULTS)


def test_float16_is_as_exact_as_the_two_branch_way() -> None:
    arguments = draw(GATES["alternating"](4), 5, 96, torch.float16)
    expected, theirs = truth(arguments, False), truth(arguments, False, torch.float16)
    for name, value in triton(arguments, False).items():
        assert value.dtype == (torch.float32 if name == "gates" else torch.float16), name
        assert relative_error(value, expected[name]) <= 2 * relative_error(theirs[name], expected[name]), name


def test_float16_input_with_float32_parameters_and_output() -> None:
    arguments = draw(GATES["alternating"](4), 5, 96, torch.float32)
    arguments[1] = arguments[1].half()
    results, expected = triton(arguments, False), truth(arguments, False)
    assert results["x"].dtype == torch.float16
    for name in ("y", "gates", "delta_weight", "delta_bias"):
        assert results[name].dtype == torch.float32, name
        assert relative_error(results[name], expected[name]) <= 5e-6, name


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    arguments = draw(GATES["alternating"](6), 3, 96, torch.float32)
    whole = triton(arguments, False)
    for sample in range(6):
        alone = triton([value[sample : sample + 1] for value in arguments[:4]] + arguments[4:], False)
        for name in ("y", "x", "gates"):
            assert torch.equal(whole[name][sample : sample + 1], alone[name]), name


def test_two_runs_are_equal_bit_for_bit() -> None:
    arguments = draw(GATES["alternating"](6), 5, 96, torch.float32)
    first, second = triton(arguments, True), triton(arguments, True)
    assert all(torch.equal(first[name], second[name]) for name in RESULTS)


@pytest.mark.parametrize("with_residual", [False, True])
def test_the_public_function_uses_these_kernels(with_residual: bool) -> None:
    assert path_on("cpu") == "triton"
    arguments = draw(GATES["alternating"](4), 5, 96, torch.float32)
    results = triton(arguments, with_residual)
    grad, x, residual, gates, weight, bias, *deltas = arguments
    leaves = [value.requires_grad_() for value in (x, gates, *deltas)]
    residual.requires_grad_()
    y = gated_layer_norm(x, gates, weight, bias, *deltas, EPS, residual=residual if with_residual else None)
    gradients = torch.autograd.grad(y, leaves + [residual] * with_residual, grad)
    for name, value in zip(RESULTS, (y, *gradients), strict=False):
        assert torch.equal(value, results[name]), name
    if with_residual:
        assert torch.equal(gradients[-1], gradients[0])


def test_the_public_function_takes_strided_inputs_and_expanded_gradients() -> None:
    grad, x, residual, gates, weight, bias, *deltas = draw(GATES["alternating"](4), 5, 96, torch.float32)
    grad = grad[:, :1].expand(4, 5, 96)
    results = triton([grad.contiguous(), x, residual, gates, weight, bias, *deltas], True)
    strided = [value.mT.contiguous().mT.requires_grad_() for value in (x, residual)]
    assert not any(value.is_contiguous() for value in strided)
    y = gated_layer_norm(strided[0], gates, weight, bias, *deltas, EPS, residual=strided[1])
    assert torch.equal(y, results["y"])
    assert all(torch.equal(gradient, results["x"]) for gradient in torch.autograd.grad(y, strided, grad))
