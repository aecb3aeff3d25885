"""The gradient of the gates against float64, and the sampling of it."""

from dataclasses import astuple
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.torch_path import linear as torch_linear
from adaptive_ft_kernels.triton_path import gate_grad
from adaptive_ft_kernels.triton_path.tiles import FULL, HALF_DTYPES, TYPE_NAMES, Dtypes, Tile
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run

# (samples, rows per sample, components, outputs per component, inputs); 24, 40 and 65 fit no tile.
SHAPES = ((1, 1, 1, 64, 64), (3, 20, 1, 24, 40), (4, 36, 3, 24, 40), (2, 56, 2, 64, 136), (5, 65, 1, 136, 64))
TILES = (Tile(64, 64, 64, 4, 4), Tile(64, 128, 32, 4, 4), Tile(128, 128, 32, 8, 4), Tile(128, 128, 64, 8, 3))


def drawn(shape: tuple[int, ...], dtype: torch.dtype, delta_scale: float = 0.3) -> tuple[Inputs, Tensor]:
    samples, rows, components, block, num_inputs = shape
    inputs = draw(GATES["random"](samples, components), (rows,), block, num_inputs, delta_scale).to(dtype)
    return inputs, torch.randn(samples, rows, components * block).to(dtype)


def truth(inputs: Inputs, grad: Tensor) -> Tensor:
    return run(reference.gated_linear, inputs.to(torch.float64), grad.double())["gates"]


def all_samples(inputs: Inputs) -> Tensor:
    batch, components = inputs.gates.shape
    return torch.arange(batch, dtype=torch.int32).expand(components, batch).contiguous()


def evaluated(module: object, inputs: Inputs, grad: Tensor, sampled_CM: Tensor) -> Tensor:
    with torch.no_grad():
        return module.gate_gradient(grad, inputs.x, inputs.delta_weight, inputs.delta_bias, sampled_CM)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_samples(shape: tuple[int, ...]) -> None:
    inputs, grad = drawn(shape, torch.float32)
    of_gates = evaluated(gate_grad, inputs, grad, all_samples(inputs))
    assert of_gates.is_contiguous()
    assert relative_error(of_gates, truth(inputs, grad)) <= 2e-6


# Rows that end at, one past and one before the end of a tile of 64; then sizes of the models.
@pytest.mark.parametrize(
    "shape", [(64, 1, 64, 64), (65, 1, 64, 64), (127, 1, 64, 64), (3, 64, 64, 64), (3, 120, 64, 64), (3, 5, 768, 768)]
)
def test_tails_of_the_row_tiles(shape: tuple[int, ...]) -> None:
    assert gate_grad.gate_tile(64, 64, 1, FULL, True).n == 64
    samples, rows, block, num_inputs = shape
    inputs, grad = drawn((samples, rows, 1, block, num_inputs), torch.float32)
    true = truth(inputs, grad)
    assert relative_error(evaluated(gate_grad, inputs, grad, all_samples(inputs)), true) <= 2e-6
    num_sampled = samples - 1
    sampled_CM = all_samples(inputs)[:, 1:].contiguous()
    found = evaluated(gate_grad, inputs, grad, sampled_CM)
    assert relative_error(found[1:], true[1:] * (samples / num_sampled)) <= 2e-6


def test_without_bias() -> None:
    inputs, grad = drawn((3, 20, 2, 24, 40), torch.float32)
    found = gate_grad.gate_gradient(grad, inputs.x.detach(), inputs.delta_weight.detach(), None, all_samples(inputs))
    inputs.delta_bias = torch.zeros_like(inputs.delta_bias)
    assert relative_error(found, truth(inputs, grad)) <= 2e-6


@pytest.mark.parametrize("delta_dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("delta_scale", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_half_precision(shape: tuple[int, ...], delta_scale: float, delta_dtype: torch.dtype) -> None:
    """However small the delta is beside the weight, its gate gradient is exact: no difference of two outputs."""
    inputs, grad = drawn(shape, torch.float16, delta_scale)
    wide, _ = drawn(shape, torch.float32, delta_scale)
    if delta_dtype == torch.float32:
        inputs.delta_weight, inputs.delta_bias = wide.delta_weight, wide.delta_bias
    true = truth(inputs, grad)
    found = evaluated(gate_grad, inputs, grad, all_samples(inputs))
    by_torch = evaluated(torch_linear, inputs, grad, all_samples(inputs))
    assert relative_error(found, true) <= 2 * relative_error(by_torch, true)
    assert relative_error(found, true) <= 5e-3


@pytest.mark.parametrize("shape", [(3, 20, 4, 64, 144), (3, 20, 1, 200, 136)], ids=str)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile(tile: Tile, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 64 columns, two of which share a tile of 128; and more columns than a tile."""
    monkeypatch.setattr(gate_grad, "gate_tile", lambda *_: tile)
    inputs, grad = drawn(shape, torch.float32)
    true = truth(inputs, grad)
    assert relative_error(evaluated(gate_grad, inputs, grad, all_samples(inputs)), true) <= 2e-6
    sampled_CM = all_samples(inputs)[:, 1:].contiguous()
    expected = true * torch.tensor([0.0, 1.5, 1.5])[:, None]
    assert relative_error(evaluated(gate_grad, inputs, grad, sampled_CM), expected) <= 2e-6


@pytest.mark.parametrize("num_sampled", [1, 2])
def test_sampling_is_unbiased(num_sampled: int) -> None:
    """The mean over all subsets is the full gradient, and what is not sampled is exactly 0."""
    inputs, grad = drawn((4, 5, 2, 24, 40), torch.float32)
    total = torch.zeros(4, 2)
    subsets = list(combinations(range(4), num_sampled))
    for subset in subsets:
        sampled_CM = torch.tensor([subset, subsets[-1 - subsets.index(subset)]], dtype=torch.int32)
        of_gates = evaluated(gate_grad, inputs, grad, sampled_CM)
        assert (of_gates != 0).sum(0).tolist() == [num_sampled, num_sampled]
        total += of_gates
    assert relative_error(total / len(subsets), truth(inputs, grad)) <= 2e-6


def test_two_runs_are_equal() -> None:
    inputs, grad = drawn((4, 36, 3, 24, 40), torch.float32)
    first, second = (evaluated(gate_grad, inputs, grad, all_samples(inputs)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtypes", [*HALF_DTYPES, FULL], ids=str)
def test_every_tile_is_among_the_compiled_forms(dtypes: Dtypes) -> None:
    types = tuple(f"*{TYPE_NAMES[dtype]}" for dtype in dtypes)
    names = ("OUTPUTS", "ROWS", "INNER", "SEGMENT")
    listed = {
        (*(form.constants[name] for name in names), form.num_warps, form.num_stages, "sampled" in form.constants)
        for form in gate_grad.compiled_forms()
        if (form.signature["x"], form.signature["delta"]) == types
    }
    reachable = set()
    for rows, outputs, parts, even in product((1, 720, 2304, 30720), (16, 64, 96, 768, 3072), (1, 12), (False, True)):
        m, *others, num_warps, num_stages = astuple(gate_grad.gate_tile(rows, outputs, parts, dtypes, even))
        reachable |= {(m, *others, m, num_warps, num_stages, all_samples) for all_samples in (False, True)}
        if even and parts == 1 and outputs % 128 == 0:  # heads of 64 columns
            reachable.add((m, *others, 64, num_warps, num_stages, True))
    assert reachable == listed
