"""The gradient of the deltas against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.torch_path import linear as torch_linear
from adaptive_ft_kernels.triton_path import delta_grad
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run

Grouped = Callable[[Tensor], tuple[Tensor, Tensor]]

# (samples, rows per sample, components, outputs per component, inputs); 24, 40 and 65 fit no tile.
SHAPES = ((1, 1, 1, 64, 64), (3, 20, 1, 24, 40), (4, 36, 3, 24, 40), (2, 56, 2, 64, 136), (5, 65, 1, 136, 64))


def drawn(shape: tuple[int, ...], gates: str, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    samples, rows, components, block, num_inputs = shape
    inputs = draw(GATES[gates](samples, components), (rows,), block, num_inputs).to(dtype)
    return inputs, torch.randn(samples, rows, components * block).to(dtype)


def truth(inputs: Inputs, grad: Tensor) -> tuple[Tensor, Tensor]:
    found = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    return found["delta_weight"], found["delta_bias"]


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_of_gates(shape: tuple[int, ...], gates: str, grouped: Grouped) -> None:
    inputs, grad = drawn(shape, gates, torch.float32)
    found = delta_grad.delta_gradient(grad, inputs.x.detach(), *grouped(inputs.gates), torch.float32)
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert value.shape == true.shape
        assert relative_error(value, true) <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_half_precision_is_as_exact_as_torch(shape: tuple[int, ...], dtype: torch.dtype, grouped: Grouped) -> None:
    inputs, grad = drawn(shape, "random", torch.float16)
    arguments = (grad, inputs.x.detach(), *grouped(inputs.gates))
    found = delta_grad.delta_gradient(*arguments, dtype)
    by_torch = torch_linear.delta_gradient(*arguments, torch.float16)
    for value, other, true in zip(found, by_torch, truth(inputs, grad), strict=True):
        assert value.dtype == dtype
        assert relative_error(value, true) <= 2 * relative_error(other, true)


@pytest.mark.parametrize("gates", ["all frozen", "one sample tuned", "random"])
def test_split_sums(gates: str, grouped: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    """More splits than steps, so that some are empty."""
    monkeypatch.setattr(delta_grad, "ROWS_PER_SPLIT", 16)
    inputs, grad = drawn((7, 20, 2, 24, 40), gates, torch.float32)
    arguments = (grad, inputs.x.detach(), *grouped(inputs.gates), torch.float32)
    found = delta_grad.delta_gradient(*arguments)
    for value, again, true in zip(found, delta_grad.delta_gradient(*arguments), truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 2e-6
        assert torch.equal(value, again)


def test_splits_fill_a_gpu_but_no_more() -> None:
    assert delta_grad.num_splits(num_tiles=36, most=100) == 7
    assert delta_grad.num_splits(num_tiles=36, most=2) == 2
    assert delta_grad.num_splits(num_tiles=1000, most=100) == 1
    assert delta_grad.num_splits(num_tiles=36, most=0) == 1


def test_frozen_samples_are_not_read(grouped: Grouped) -> None:
    """Not even times zero: a frozen sample's infinity is nothing to the deltas."""
    inputs, grad = drawn((4, 20, 1, 24, 40), "one sample tuned", torch.float32)
    x = inputs.x.detach().clone()
    x[inputs.gates[:, 0] == 0] = torch.inf
    arguments = (*grouped(inputs.gates), torch.float32)
    clean = delta_grad.delta_gradient(grad, inputs.x.detach(), *arguments)
    assert all(map(torch.equal, delta_grad.delta_gradient(grad, x, *arguments), clean))


def test_strided_rows_and_expanded_gradients(grouped: Grouped) -> None:
    inputs, _ = drawn((4, 20, 1, 64, 64), "random", torch.float32)
    x = inputs.x.detach()
    wider = torch.randn(4, 20, 100)
    wider[..., 7:71] = x
    grad = torch.randn(64).expand(4, 20, 64)
    arguments = (*grouped(inputs.gates), torch.float32)
    expected = delta_grad.delta_gradient(grad.contiguous(), x, *arguments)
    assert all(map(torch.equal, delta_grad.delta_gradient(grad, wider[..., 7:71], *arguments), expected))
