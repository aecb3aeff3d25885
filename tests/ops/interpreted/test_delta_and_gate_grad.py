"""Both gradients in one kernel, against float64 and against the two kernels it replaces."""

from collections.abc import Callable
from dataclasses import astuple
from itertools import product

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.torch_path import linear as torch_linear
from adaptive_ft_kernels.triton_path import delta_and_gate_grad
from adaptive_ft_kernels.triton_path.delta_and_gate_grad import fused_gradients, fused_pays
from adaptive_ft_kernels.triton_path.tiles import Tile
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run

Grouped = Callable[[Tensor], tuple[Tensor, Tensor]]
Arguments = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor]

# (samples, rows per sample, components, outputs per component, inputs); 24, 40 and 65 fit no tile.
SHAPES = ((1, 1, 1, 64, 64), (3, 20, 1, 24, 40), (4, 36, 3, 24, 40), (2, 56, 2, 64, 136), (5, 65, 1, 136, 64))
TILES = (Tile(128, 128, 64, 8, 5), Tile(64, 128, 64, 4, 5), Tile(64, 128, 32, 8, 5))


def drawn(shape: tuple[int, ...], gates: str, dtype: torch.dtype, delta_scale: float = 0.3) -> tuple[Inputs, Tensor]:
    samples, rows, components, block, num_inputs = shape
    inputs = draw(GATES[gates](samples, components), (rows,), block, num_inputs, delta_scale).to(dtype)
    return inputs, torch.randn(samples, rows, components * block).to(dtype)


def arguments(inputs: Inputs, grad: Tensor, grouped: Grouped) -> Arguments:
    delta_weight, delta_bias = inputs.delta_weight.detach(), inputs.delta_bias.detach()
    return grad, inputs.x.detach(), delta_weight, delta_bias, *grouped(inputs.gates)


def truth(inputs: Inputs, grad: Tensor) -> list[Tensor]:
    found = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    return [found[name] for name in ("delta_weight", "delta_bias", "gates")]


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_of_gates(shape: tuple[int, ...], gates: str, grouped: Grouped) -> None:
    inputs, grad = drawn(shape, gates, torch.float32)
    found = fused_gradients(*arguments(inputs, grad, grouped), torch.float32)
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert value.shape == true.shape
        assert relative_error(value, true) <= 2e-6


@pytest.mark.parametrize("delta_dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_in_half_precision(
    tile: Tile, delta_dtype: torch.dtype, grouped: Grouped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_and_gate_grad, "fused_tile", lambda *_: tile)
    inputs, grad = drawn((3, 56, 2, 136, 136), "random", torch.float16)
    finer = draw(inputs.gates, (56,), 136, 136).to(delta_dtype)
    inputs.delta_weight, inputs.delta_bias = finer.delta_weight, finer.delta_bias
    passed = arguments(inputs, grad, grouped)
    by_torch = torch_linear.delta_and_gate_gradient(*passed, passed[4])
    for value, other, true in zip(fused_gradients(*passed, delta_dtype), by_torch, truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 2 * relative_error(other, true)


# Rows of a sample that end at, one past and one before the end of a step of 64 or 32; then sizes of the models.
@pytest.mark.parametrize(
    "shape", [(64, 64, 64), (65, 64, 64), (127, 64, 64), (96, 64, 64), (97, 64, 64), (120, 64, 64), (5, 768, 768)]
)
def test_tails_of_the_steps(shape: tuple[int, ...], grouped: Grouped) -> None:
    rows, block, num_inputs = shape
    inputs, grad = drawn((3, rows, 1, block, num_inputs), "one sample frozen", torch.float32)
    found = fused_gradients(*arguments(inputs, grad, grouped), torch.float32)
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 2e-6


@pytest.mark.parametrize("delta_scale", [1e-1, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_differences_lose_nothing_over_many_samples(dtype: torch.dtype, delta_scale: float, grouped: Grouped) -> None:
    """The accumulator grows with the samples, what one of them adds does not. The last one is the smallest."""
    inputs, grad = drawn((64, 20, 1, 64, 64), "all tuned", dtype, delta_scale)
    grad[-1] /= 16
    *_, of_gates = fused_gradients(*arguments(inputs, grad, grouped), torch.float32)
    *_, true = truth(inputs, grad)
    bound = 1e-5 if dtype == torch.float32 else 5e-3
    assert relative_error(of_gates, true) <= bound
    assert relative_error(of_gates[-1], true[-1]) <= 5 * bound


@pytest.mark.parametrize("gates", ["all frozen", "one sample tuned", "random"])
def test_split_sums(gates: str, grouped: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_and_gate_grad, "SAMPLES_PER_SPLIT", 2)
    inputs, grad = drawn((7, 20, 2, 24, 40), gates, torch.float32)
    passed = arguments(inputs, grad, grouped)
    found, again = (fused_gradients(*passed, torch.float32) for _ in range(2))
    assert all(map(torch.equal, found, again))
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 2e-6


def test_without_bias(grouped: Grouped) -> None:
    inputs, grad = drawn((3, 20, 2, 24, 40), "random", torch.float32)
    grad, x, delta_weight, _, *order = arguments(inputs, grad, grouped)
    found = fused_gradients(grad, x, delta_weight, None, *order, torch.float32)
    inputs.delta_bias = torch.zeros_like(inputs.delta_bias).requires_grad_()
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 2e-6


@pytest.mark.parametrize("num_rows", [20, 56])
@pytest.mark.parametrize("num_sampled", [1, 4])
def test_one_or_two_kernels(num_rows: int, num_sampled: int, grouped: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    """One where it pays and all gates are wanted; the values are the same."""
    launched = []
    fused = delta_and_gate_grad.fused_gradients
    monkeypatch.setattr(delta_and_gate_grad, "fused_gradients", lambda *args: launched.append(1) or fused(*args))
    inputs, grad = drawn((4, num_rows, 1, 64, 64), "random", torch.float16)
    passed = arguments(inputs, grad, grouped)
    sampled_CM = torch.arange(num_sampled, dtype=torch.int32)[None]
    found = delta_and_gate_grad.delta_and_gate_gradient(*passed, sampled_CM)
    assert len(launched) == (num_rows == 56 and num_sampled == 4)
    of_weight, of_bias, of_gates = truth(inputs, grad)
    of_gates[num_sampled:] = 0
    for value, true in zip(found, (of_weight, of_bias, of_gates * 4 / num_sampled), strict=True):
        assert relative_error(value, true) <= 5e-3


def test_rule() -> None:
    paying = [rows for rows in (20, 36, 48, 54, 56, 64, 65, 96, 120, 128) if fused_pays(rows, torch.bfloat16)]
    assert paying == [54, 56, 64, 96, 120, 128]
    assert not fused_pays(64, torch.float32)


def test_sizes_off_16_take_two_kernels(grouped: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_and_gate_grad, "fused_gradients", None)
    inputs, grad = drawn((2, 64, 1, 24, 40), "random", torch.float16)
    sampled_CM = torch.arange(2, dtype=torch.int32)[None]
    found = delta_and_gate_grad.delta_and_gate_gradient(*arguments(inputs, grad, grouped), sampled_CM)
    for value, true in zip(found, truth(inputs, grad), strict=True):
        assert relative_error(value, true) <= 5e-3


@pytest.mark.parametrize("capability", [80, 90])
def test_every_tile_is_among_the_compiled_forms(capability: int) -> None:
    names = ("OUTPUTS", "INPUTS", "ROWS")
    listed = {
        (*(form.constants[name] for name in names), form.num_warps, form.num_stages, "steps" in form.constants)
        for form in delta_and_gate_grad.compiled_forms()
        if form.capability == capability
    }
    paying = [rows for rows in range(1, 300) if fused_pays(rows, torch.float16)]
    tiles = {
        (delta_and_gate_grad.fused_tile(outputs, rows, capability), rows)
        for outputs, rows in product((16, 64, 96, 768, 3072), paying)
    }
    assert {(*astuple(tile), rows <= tile.k) for tile, rows in tiles} == listed
