"""The gradient of the deltas against float64."""

import itertools
from collections.abc import Callable
from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.torch_path import linear as torch_linear
from adaptive_ft_kernels.triton_path import delta_grad
from adaptive_ft_kernels.triton_path.tiles import TYPE_NAMES
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


# Tuned rows that end at, one past and one before the end of a step of 32; then sizes of the models.
TAILS = ((32, 1, 64, 64), (33, 1, 64, 64), (63, 1, 64, 64), (3, 64, 64, 64), (3, 120, 64, 64), (3, 5, 768, 768))


@pytest.mark.parametrize("case", TAILS, ids=str)
def test_tails_of_the_steps(case: tuple[int, ...], grouped: Grouped) -> None:
    assert delta_grad.delta_tile(64, torch.float32, True, 80).k == 32
    num_tuned, rows, block, num_inputs = case
    gates = (torch.randperm(num_tuned + 7) < num_tuned)[:, None].float()
    inputs = draw(gates, (rows,), block, num_inputs).to(torch.float32)
    grad = torch.randn(num_tuned + 7, rows, block)
    found = delta_grad.delta_gradient(grad, inputs.x.detach(), *grouped(gates), torch.float32)
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 2e-6


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


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", TYPE_NAMES)
def test_every_tile_is_among_the_compiled_forms(dtype: torch.dtype, capability: int) -> None:
    outs = {TYPE_NAMES[torch.float32], TYPE_NAMES[dtype]}
    reachable = {
        (f"*{out}", *astuple(delta_grad.delta_tile(outputs, dtype, even, capability)))
        for out, outputs, even in itertools.product(outs, (16, 64, 96, 768, 3072), (False, True))
    }
    names = ("OUTPUTS", "INPUTS", "ROWS")
    assert reachable == {
        (form.signature["of_weight"], *(form.constants[name] for name in names), form.num_warps, form.num_stages)
        for form in delta_grad.compiled_forms()
        if (form.signature["x"], form.capability) == (f"*{TYPE_NAMES[dtype]}", capability)
    }
