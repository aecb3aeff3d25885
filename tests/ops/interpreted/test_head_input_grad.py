"""The input gradient under gates per component: both ways to compute it, and which one is chosen."""

import itertools
from collections.abc import Callable
from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.torch_path import linear as torch_linear
from adaptive_ft_kernels.triton_path import head_input_grad, linear
from adaptive_ft_kernels.triton_path.tiles import FULL, HALF_DTYPES, Dtypes, Tile
from tests.ops.linear_cases import GATES, draw, relative_error, run

Grouped = Callable[[Tensor], tuple[Tensor, Tensor]]

FLOAT16 = [dtypes for dtypes in HALF_DTYPES if dtypes.rows == torch.float16]


def check(gates: Tensor, rows: int, block: int, num_inputs: int, dtypes: Dtypes, grouped: Grouped) -> None:
    inputs = draw(gates, (rows,), block, num_inputs).to(dtypes.weights)
    grad = torch.randn(gates.shape[0], rows, inputs.weight.shape[0]).to(dtypes.rows)
    truth = run(reference.gated_linear, inputs.to(torch.float64), grad.double())["x"]
    arguments = (grad, inputs.weight, inputs.delta_weight.detach(), *grouped(gates))
    bound = 2e-6 if dtypes == FULL else 2 * relative_error(torch_linear.input_gradient(*arguments), truth)
    found = linear.input_gradient(*arguments)
    assert found.dtype == dtypes.rows
    assert relative_error(found, truth) <= bound
    assert torch.equal(found, linear.input_gradient(*arguments))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Tile]:
    """The tiles of the kernel's launches; empty where the dense products ran."""
    seen: list[Tile] = []
    launch = head_input_grad._one_sample_per_tile

    def noted(*arguments: object) -> Tensor:
        seen.append(arguments[-1])
        return launch(*arguments)

    monkeypatch.setattr(head_input_grad, "_one_sample_per_tile", noted)
    return seen


@pytest.mark.parametrize("gates", GATES)
def test_kernel_with_every_kind_of_gates(gates: str, grouped: Grouped, launches: list[Tile]) -> None:
    check(GATES[gates](5, 3), 56, 64, 128, FLOAT16[0], grouped)
    assert launches


@pytest.mark.parametrize("dtypes", FLOAT16, ids=str)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("rows", [64, 100, 150, 197])
def test_kernel_with_every_tile(
    rows: int, capability: int, dtypes: Dtypes, grouped: Grouped, launches: list[Tile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_input_grad, "capability_of", lambda device: capability)
    check(GATES["random"](2, 2), rows, 64, 256, dtypes, grouped)
    assert launches


def test_kernel_with_many_samples_and_components(grouped: Grouped, launches: list[Tile]) -> None:
    """More samples than are read at once, the last bit of the gates, one sample, blocks of several steps."""
    check(GATES["random"](70, 2), 50, 64, 128, FLOAT16[0], grouped)
    check(GATES["random"](2, 32), 50, 64, 128, FLOAT16[0], grouped)
    check(GATES["random"](1, 12), 64, 64, 128, FLOAT16[0], grouped)
    check(GATES["random"](3, 2), 64, 192, 128, FLOAT16[1], grouped)
    assert len(launches) == 8


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("dtypes", [FULL, *FLOAT16], ids=str)
def test_dense_products_with_every_kind_of_gates(
    gates: str, dtypes: Dtypes, grouped: Grouped, launches: list[Tile]
) -> None:
    check(GATES[gates](5, 3), 20, 24, 40, dtypes, grouped)
    assert not launches


def test_too_many_components_for_the_kernel(grouped: Grouped, launches: list[Tile]) -> None:
    check(GATES["random"](2, 33), 64, 64, 128, FLOAT16[0], grouped)
    assert not launches


def test_gradients_that_start_off_16_bytes_take_the_dense_products(grouped: Grouped, launches: list[Tile]) -> None:
    grad = torch.randn(2 * 56 * 128 + 1).half()[1:].view(2, 56, 128)
    weight, delta_weight = torch.randn(2, 128, 128).half()
    order = grouped(GATES["random"](2, 2))
    found = linear.input_gradient(grad, weight, delta_weight, *order)
    assert not launches
    expected = linear.input_gradient(grad.clone(), weight, delta_weight, *order)
    assert launches
    assert relative_error(found, expected) <= 2e-3


def test_an_infinite_gradient_of_a_frozen_sample_stays_infinite(grouped: Grouped) -> None:
    """Loss scaling looks for infinities; a product with the gate 0 would make them not-a-number."""
    grad = torch.zeros(2, 20, 8)
    grad[0, 0, 0] = torch.inf
    weight = torch.ones(8, 3)
    found = linear.input_gradient(grad, weight, weight, *grouped(torch.zeros(2, 2)))
    assert found[0, 0].isinf().all()
    assert not found.isnan().any()


def test_every_tile_is_among_the_compiled_forms() -> None:
    listed = {
        (form.constants["OUTPUTS"], form.constants["ROWS"], form.constants["INNER"], form.num_warps, form.num_stages)
        for form in head_input_grad.compiled_forms()
    }
    shapes = itertools.product(range(1, 300), (96, 128, 384, 768, 1024), (24, 64, 128), HALF_DTYPES, (80, 90))
    reachable = {head_input_grad.head_tile(*shape) for shape in shapes} - {None}
    assert {astuple(tile) for tile in reachable} == listed


@pytest.mark.parametrize(("rows", "takes_the_kernel"), [(20, False), (36, False), (56, True), (120, True), (197, True)])
def test_samples_that_fill_their_tiles_take_the_kernel(rows: int, takes_the_kernel: bool) -> None:
    for capability in (80, 90):
        for dtypes in HALF_DTYPES:
            tile = head_input_grad.head_tile(rows, 768, 64, dtypes, capability)
            assert (tile is not None) == takes_the_kernel
