"""The gated operations on a CUDA device: values, no waiting for the device, CUDA graphs, the same bits twice."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft_kernels import gated_layer_norm, gated_linear, path_on, plan_gates, reference
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
# samples, rows per sample, components, outputs per component, inputs
SHAPES = {
    "heads": (8, 36, 12, 64, 768),
    "heads of 56 rows": (8, 56, 12, 64, 768),
    "output": (9, 20, 1, 768, 768),
    "ffn in": (8, 36, 1, 3072, 768),
    "one sample": (1, 65, 12, 64, 768),
    "odd sizes": (5, 33, 3, 24, 40),
}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 6e-3}


def on_gpu(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same numbers as leaves on the device, rounded to `dtype`; float32 gates."""
    values = [None if value is None else value.detach().cuda() for value in inputs.arguments()]
    moved = Inputs(*values).to(dtype)
    moved.gates = moved.gates.detach().float().requires_grad_()
    return moved


def case(shape: str, kind: str, dtype: torch.dtype, delta_scale: float = 0.1) -> tuple[Inputs, Tensor]:
    """Arguments, and a gradient of the output."""
    num_samples, rows, num_components, block, num_inputs = SHAPES[shape]
    inputs = draw(GATES[kind](num_samples, num_components), (rows,), block, num_inputs, delta_scale)
    return on_gpu(inputs, dtype), torch.randn(num_samples, rows, num_components * block).to("cuda", dtype)


def test_triton_is_what_runs() -> None:
    assert path_on("cuda") == "triton"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["all frozen", "all tuned", "one sample tuned", "random"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(shape: str, kind: str, dtype: torch.dtype) -> None:
    inputs, grad = case(shape, kind, dtype)
    truth = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    for name, value in run(gated_linear, inputs, grad).items():
        assert value.isfinite().all(), name
        if truth[name].norm() > 0:
            assert relative_error(value, truth[name]) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("delta_scale", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("shape", ["heads", "heads of 56 rows", "ffn in"])
def test_bfloat16_gate_gradients_do_not_drown_in_rounding(shape: str, delta_scale: float) -> None:
    inputs, grad = case(shape, "random", torch.bfloat16, delta_scale)
    truth = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    assert relative_error(run(gated_linear, inputs, grad)["gates"], truth["gates"]) <= 5e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_two_runs_give_the_same_bits(shape: str) -> None:
    inputs, grad = case(shape, "random", torch.bfloat16)
    first, second = (run(gated_linear, inputs, grad) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_autocast_keeps_deltas_in_float32() -> None:
    inputs, grad = case("heads", "random", torch.float32)
    truth = run(reference.gated_linear, inputs.to(torch.float64), grad.double())
    with torch.autocast("cuda", torch.bfloat16):
        ours = run(gated_linear, inputs, grad)
    assert ours["y"].dtype == torch.bfloat16
    assert ours["delta_weight"].dtype == torch.float32
    assert all(relative_error(value, truth[name]) <= 8e-3 for name, value in ours.items())


def test_no_operation_waits_for_the_device() -> None:
    inputs, grad = case("heads", "random", torch.bfloat16)
    plan = functools.partial(plan_gates, gate_grad_fraction=0.25, generator=torch.Generator("cuda"))
    run(functools.partial(gated_linear, plan=plan(inputs.gates)), inputs, grad)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(functools.partial(gated_linear, plan=plan(inputs.gates)), inputs, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def replayed(step: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A captured step and the tensors it writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        written = step()
    return graph, written


def test_a_cuda_graph_follows_changing_gates() -> None:
    inputs, grad = case("heads of 56 rows", "random", torch.bfloat16)
    graph, written = replayed(lambda: list(run(gated_linear, inputs, grad).values()))
    for _ in range(3):
        with torch.no_grad():
            inputs.gates.copy_(torch.rand_like(inputs.gates).round())
        graph.replay()
        torch.cuda.synchronize()
        direct = list(run(gated_linear, inputs, grad).values())
        assert all(torch.equal(ours, truth) for ours, truth in zip(written, direct, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["all frozen", "all tuned", "random"])
def test_layer_norm_equals_the_reference(kind: str, dtype: torch.dtype) -> None:
    gates = GATES[kind](8, 1).cuda().requires_grad_()
    x, grad, residual = (torch.randn(8, 36, 768, device="cuda").to(dtype) for _ in range(3))
    parameters = [torch.randn(768, device="cuda").to(dtype) for _ in range(4)]
    leaves = [x.requires_grad_(), *(value.requires_grad_() for value in parameters[2:])]
    y = gated_layer_norm(x, gates, *parameters, 1e-12, residual=residual)
    wide = [value.detach().double().requires_grad_() for value in (x, *parameters[2:])]
    truth = reference.gated_layer_norm(
        wide[0] + residual.double(), gates, *(value.double() for value in parameters[:2]), *wide[1:], 1e-12
    )
    assert relative_error(y, truth) <= TOLERANCE[dtype]
    ours = torch.autograd.grad(y, [*leaves, gates], grad)
    theirs = torch.autograd.grad(truth, [*wide, gates], grad.double())
    for value, expected in zip(ours, theirs, strict=True):
        if expected.norm() > 0:
            assert relative_error(value, expected) <= TOLERANCE[dtype]


def test_frozen_gates_are_close_to_the_plain_layer() -> None:
    inputs, _ = case("output", "all frozen", torch.bfloat16)
    plain = F.linear(inputs.x, inputs.weight, inputs.bias)
    assert relative_error(gated_linear(*inputs.arguments()), plain) <= 4e-3
