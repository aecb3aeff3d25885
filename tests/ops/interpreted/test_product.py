"""The grouped product, as forward and as input gradient of one gate per sample, against float64."""

import itertools
from collections.abc import Callable
from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.torch_path import linear as torch_linear
from adaptive_ft_kernels.triton_path import linear, product
from adaptive_ft_kernels.triton_path.tiles import FULL, HALF_DTYPES, TYPE_NAMES, Dtypes, Tile
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run

Grouped = Callable[[Tensor], tuple[Tensor, Tensor]]

# (samples, rows per sample, components, outputs per component, inputs); 24, 40 and 65 fit no tile.
SHAPES = ((1, 1, 1, 64, 64), (3, 20, 1, 24, 40), (4, 36, 3, 24, 40), (2, 56, 2, 64, 128), (5, 65, 1, 64, 64))
TILES = (Tile(64, 128, 64, 4, 3), Tile(128, 128, 64, 8, 3), Tile(128, 256, 64, 8, 3), Tile(128, 256, 32, 8, 4))


def with_dtypes(inputs: Inputs, dtypes: Dtypes) -> Inputs:
    moved = inputs.to(dtypes.weights)
    moved.x = moved.x.detach().to(dtypes.rows)
    return moved


def products(module: object, inputs: Inputs, grad: Tensor, grouped: Grouped) -> dict[str, Tensor]:
    """The output and, with one component, the input gradient of a path."""
    order = grouped(inputs.gates)
    with torch.no_grad():
        weights = (inputs.weight, inputs.bias, inputs.delta_weight, inputs.delta_bias)
        found = {"y": module.forward(inputs.x, *weights, *order)}
        if inputs.gates.shape[1] == 1:
            found["x"] = module.input_gradient(grad, inputs.weight, inputs.delta_weight, *order)
    return found


def check(inputs: Inputs, dtypes: Dtypes, grouped: Grouped) -> None:
    inputs = with_dtypes(inputs, dtypes)
    grad = torch.randn(*inputs.x.shape[:2], inputs.weight.shape[0]).to(dtypes.rows)
    truth = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    torch_values = products(torch_linear, inputs, grad, grouped)
    for name, values in products(linear, inputs, grad, grouped).items():
        assert values.dtype == dtypes.rows
        bound = 2e-6 if dtypes == FULL else 2 * relative_error(torch_values[name], truth[name])
        assert relative_error(values, truth[name]) <= bound, name


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_of_gates(shape: tuple[int, ...], gates: str, grouped: Grouped) -> None:
    samples, rows, components, block, num_inputs = shape
    check(draw(GATES[gates](samples, components), (rows,), block, num_inputs), FULL, grouped)


@pytest.mark.parametrize("dtypes", [dtypes for dtypes in HALF_DTYPES if dtypes.rows == torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_half_precision_is_as_exact_as_torch(shape: tuple[int, ...], dtypes: Dtypes, grouped: Grouped) -> None:
    samples, rows, components, block, num_inputs = shape
    check(draw(GATES["random"](samples, components), (rows,), block, num_inputs), dtypes, grouped)


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile(tile: Tile, grouped: Grouped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "product_tile", lambda *_: tile)
    # Nine and more tiles of outputs: the last group of the swizzle is not full.
    check(draw(GATES["random"](15, 1), (20,), 9 * tile.m, 128), HALF_DTYPES[2], grouped)


# Frozen and tuned rows end at, one past and one before the end of a tile of 64.
@pytest.mark.parametrize("num_tuned", [64, 65, 127])
@pytest.mark.parametrize("num_frozen", [64, 65, 127])
def test_tails_of_the_row_tiles(num_frozen: int, num_tuned: int, grouped: Grouped) -> None:
    assert product.product_tile(128, 64, 1, FULL, True, 80).n == 64
    gates = (torch.randperm(num_frozen + num_tuned) >= num_frozen)[:, None].float()
    check(draw(gates, (1,), 64, 64), FULL, grouped)


@pytest.mark.parametrize("shape", [(64, 64, 64), (120, 64, 64), (5, 768, 768)], ids=str)
def test_sizes_of_the_models(shape: tuple[int, int, int], grouped: Grouped) -> None:
    rows, block, num_inputs = shape
    check(draw(GATES["random"](3, 1), (rows,), block, num_inputs), FULL, grouped)


def test_no_bias(grouped: Grouped) -> None:
    inputs = draw(GATES["random"](4, 2), (5,), 24, 40)
    inputs.bias = inputs.delta_bias = None
    inputs = inputs.to(torch.float32)
    order = grouped(inputs.gates)
    x, weight, delta_weight = inputs.x.detach(), inputs.weight, inputs.delta_weight.detach()
    y = linear.forward(x, weight, None, delta_weight, None, *order)
    frozen, tuned = x @ weight.T, x @ (weight + delta_weight).T
    gates = inputs.gates.repeat_interleave(24, 1)[:, None]
    assert relative_error(y, torch.where(gates == 1, tuned, frozen)) <= 2e-6


def test_two_runs_are_equal_and_leave_the_inputs_alone(grouped: Grouped) -> None:
    inputs = draw(GATES["random"](4, 1), (20,), 64, 64).to(torch.float32)
    before = [value.clone() for value in inputs.arguments()]
    grad = torch.randn(4, 20, 64)
    first, second = (products(linear, inputs, grad, grouped) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(old, new) for old, new in zip(before, inputs.arguments(), strict=True))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtypes", [*HALF_DTYPES, FULL], ids=str)
def test_every_tile_is_among_the_compiled_forms(dtypes: Dtypes, capability: int) -> None:
    row_type = f"*{TYPE_NAMES[dtypes.rows]}"
    weight_type = f"*{TYPE_NAMES[dtypes.weights]}"
    listed = {
        (form.constants["OUTPUTS"], form.constants["ROWS"], form.constants["INNER"], form.num_warps, form.num_stages)
        for form in product.compiled_forms()
        if (form.signature["x"], form.signature["weight"], form.capability) == (row_type, weight_type, capability)
    }
    layers = ((64, 12), (64, 1), (768, 1), (3072, 1), (1024, 1), (4096, 1), (96, 3))
    reachable = {
        product.product_tile(rows, outputs, components, dtypes, outputs % 64 == 0, capability)
        for rows, (outputs, components) in itertools.product((1, 640, 1280, 2304, 3584, 9216, 30720), layers)
    }
    assert {astuple(tile) for tile in reachable} == listed


@pytest.mark.parametrize("capability", [80, 90])
def test_padding_stays_below_a_tenth(capability: int) -> None:
    """Two groups end in at most one tile more than one group would."""
    for rows_per_sample in (20, 36, 56):
        for outputs, components in ((64, 12), (768, 1), (3072, 1)):
            num_rows = 64 * rows_per_sample
            tile = product.product_tile(num_rows, outputs, components, HALF_DTYPES[0], True, capability)
            assert (-(-num_rows // tile.n) + 1) * tile.n <= 1.1 * num_rows
