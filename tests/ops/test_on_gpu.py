"""Operations, the holder of the gates and a small model on a CUDA device: values, bits, no waiting, CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptive_ft import AdaptiveConfig, AdaptiveModel, get_adaptive_model
from adaptive_ft.gates import GateHolder, GatesDiverged
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft_kernels import Draws, gated_layer_norm, gated_linear, gated_mix, plan_gates, reference
from adaptive_ft_kernels.dispatch import path_on, use_path
from tests.ops.linear_cases import GATES, Inputs, draw, relative_error, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 6e-3}
EPS = 1e-12


@dataclass
class MixInputs:
    """The arguments of gated_mix, with the methods of `Inputs`; all of them get gradients."""

    tuned: Tensor
    frozen: Tensor
    gates: Tensor

    def arguments(self) -> list[Tensor]:
        return [self.tuned, self.frozen, self.gates]

    def differentiable(self) -> dict[str, Tensor]:
        return {"tuned": self.tuned, "frozen": self.frozen, "gates": self.gates}

    def to(self, dtype: torch.dtype) -> "MixInputs":
        branches = (branch.detach().to(dtype).requires_grad_() for branch in (self.tuned, self.frozen))
        return MixInputs(*branches, self.gates.detach().requires_grad_())


@dataclass(frozen=True)
class Case:
    """An operation, its plain formula, its arguments and a gradient of its output."""

    operation: Callable[..., Tensor]
    formula: Callable[..., Tensor]
    inputs: Any
    grad: Tensor

    def results(self, **options: Any) -> dict[str, Tensor]:
        """The output and every gradient by name; options of the operation may be given."""
        return run(partial(self.operation, **options), self.inputs, self.grad)

    def truth(self) -> dict[str, Tensor]:
        return run(self.formula, self.inputs.to(torch.float64), self.grad.double())


def on_device(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same numbers as leaves on the device, rounded to `dtype`; float32 gates."""
    values = [None if value is None else value.detach().to(DEVICE) for value in inputs.arguments()]
    return replace(Inputs(*values), gates=values[1].float()).to(dtype)


def linear(
    shape: tuple[int, int, int, int, int], kind: str, dtype: torch.dtype, delta_scale: float = 0.1, bias: bool = True
) -> Case:
    """shape: samples, rows per sample, components, outputs per component, inputs."""
    num_samples, rows, num_components, block, num_inputs = shape
    inputs = draw(GATES[kind](num_samples, num_components), (rows,), block, num_inputs, delta_scale)
    inputs = inputs if bias else replace(inputs, bias=None, delta_bias=None)
    grad = torch.randn(num_samples, rows, num_components * block).to(DEVICE, dtype)
    return Case(gated_linear, reference.gated_linear, on_device(inputs, dtype), grad)


def norm(summed: bool, kind: str, dtype: torch.dtype) -> Case:
    x, residual, grad = (torch.randn(9, 36, 768).to(DEVICE, dtype) for _ in range(3))
    inputs = on_device(Inputs(x, GATES[kind](9, 1), *(torch.randn(768) for _ in range(4))), dtype)

    def formula(x: Tensor, *others: Tensor) -> Tensor:
        return reference.gated_layer_norm(x + residual.to(x.dtype) if summed else x, *others, EPS)

    return Case(partial(gated_layer_norm, eps=EPS, residual=residual if summed else None), formula, inputs, grad)


def mix(num_components: int, features: int, kind: str, dtype: torch.dtype) -> Case:
    tuned, frozen, grad = (torch.randn(9, 36, features).to(DEVICE, dtype) for _ in range(3))
    gates = GATES[kind](9, num_components).to(DEVICE, torch.float32)
    return Case(gated_mix, reference.gated_mix, MixInputs(tuned, frozen, gates).to(dtype), grad)


# Each takes a kind of gates and a dtype.
OPERATIONS: dict[str, Callable[..., Case]] = {
    "linear, heads": partial(linear, (8, 36, 12, 64, 768)),
    "linear, heads of 56 rows": partial(linear, (8, 56, 12, 64, 768)),
    "linear, heads without bias": partial(linear, (8, 36, 12, 64, 768), bias=False),
    "linear, output": partial(linear, (9, 20, 1, 768, 768)),
    "linear, ffn in": partial(linear, (8, 36, 1, 3072, 768)),
    "linear, one sample": partial(linear, (1, 65, 12, 64, 768)),
    "linear, odd sizes": partial(linear, (5, 33, 3, 24, 40)),
    "norm": partial(norm, False),
    "norm of a sum": partial(norm, True),
    "mix, 12 gates": partial(mix, 12, 768),
    "mix, odd sizes": partial(mix, 3, 75),
}
HEADS = OPERATIONS["linear, heads"]
operations = pytest.mark.parametrize("name", OPERATIONS)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def replayed(step: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A step, run once and then captured, and the tensors that its replays write."""
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        written = step()
    return graph, written


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_triton_is_what_runs() -> None:
    assert path_on(DEVICE) == "triton"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["all frozen", "all tuned", "one sample tuned", "random"])
@operations
def test_equals_the_reference(name: str, kind: str, dtype: torch.dtype) -> None:
    case = OPERATIONS[name](kind, dtype)
    truth = case.truth()
    for result, value in case.results().items():
        assert value.isfinite().all(), result
        if truth[result].any():
            assert relative_error(value, truth[result]) <= TOLERANCE[dtype], result
        else:
            assert not value.any(), result


@pytest.mark.parametrize("delta_scale", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("name", ["linear, heads", "linear, heads of 56 rows", "linear, ffn in"])
def test_bfloat16_gate_gradients_do_not_drown_in_rounding(name: str, delta_scale: float) -> None:
    case = OPERATIONS[name]("random", torch.bfloat16, delta_scale=delta_scale)
    assert relative_error(case.results()["gates"], case.truth()["gates"]) <= 5e-3


def test_a_mix_takes_soft_gates() -> None:
    case = OPERATIONS["mix, 12 gates"]("random", torch.float32)
    case.inputs.gates = torch.rand_like(case.inputs.gates).requires_grad_()
    ours, truth = case.results(), case.truth()
    assert all(relative_error(value, truth[result]) <= 1e-5 for result, value in ours.items())


def test_some_columns_of_a_wider_plan() -> None:
    case = HEADS("random", torch.bfloat16)
    plan = plan_gates(torch.cat([case.inputs.gates[:, :5], case.inputs.gates], dim=1)).columns(5, 17)
    assert same_bits(case.results(plan=plan), case.results())


def test_autocast_keeps_deltas_in_float32() -> None:
    case = HEADS("random", torch.float32)
    truth = case.truth()
    with torch.autocast(DEVICE, torch.bfloat16):
        ours = case.results()
    assert ours["y"].dtype == torch.bfloat16
    assert ours["delta_weight"].dtype == torch.float32
    assert all(relative_error(value, truth[result]) <= 8e-3 for result, value in ours.items())


@operations
def test_no_operation_waits_for_the_device_and_two_runs_give_the_same_bits(name: str) -> None:
    case = OPERATIONS[name]("random", torch.bfloat16)
    first = case.results()
    with no_waiting():
        second = case.results()
    assert same_bits(first, second)


@operations
def test_a_cuda_graph_follows_changing_gates(name: str) -> None:
    case = OPERATIONS[name]("random", torch.bfloat16)
    graph, written = replayed(lambda: list(case.results().values()))
    for _ in range(3):
        with torch.no_grad():
            case.inputs.gates.copy_(torch.rand_like(case.inputs.gates).round())
        graph.replay()
        torch.cuda.synchronize()
        direct = case.results()
        assert same_bits(dict(zip(direct, written, strict=True)), direct)


def sampled_step(case: Case, draws: Draws) -> list[Tensor]:
    """The samples [C, M] of a plan of a quarter of them, and the gradient of the gates."""
    plan = plan_gates(case.inputs.gates, gate_grad_fraction=0.25, draws=draws)
    return [plan.sampled_CM, case.results(plan=plan)["gates"]]


def test_sampled_gate_gradients_do_not_wait_and_are_those_of_the_samples() -> None:
    case, draws = HEADS("random", torch.bfloat16), Draws(3)
    full_BC = case.results()["gates"]
    sampled_step(case, draws)
    with no_waiting():
        sampled_CM, gradient_BC = sampled_step(case, draws)
    assert sampled_CM.shape == (12, 2)
    evaluated_MC = sampled_CM.T.long()
    expected_BC = torch.zeros_like(full_BC).scatter(0, evaluated_MC, 4 * full_BC.gather(0, evaluated_MC))
    assert torch.equal(gradient_BC != 0, expected_BC != 0)
    assert relative_error(gradient_BC, expected_BC) <= 1e-3


def test_a_cuda_graph_draws_other_samples_in_each_replay() -> None:
    case = HEADS("random", torch.bfloat16)
    captured, direct = Draws(3), Draws(3)
    graph, written = replayed(lambda: sampled_step(case, captured))
    earlier_CM = sampled_step(case, direct)[0]  # that of the run before the capture
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        samples_CM, gradient_BC = sampled_step(case, direct)
        assert not torch.equal(samples_CM, earlier_CM)
        assert torch.equal(written[0], samples_CM)
        assert torch.equal(written[1], gradient_BC)
        earlier_CM = samples_CM


def test_the_holder_takes_gates_without_waiting_and_counts_faulty_ones_when_asked() -> None:
    good, faulty = torch.ones(8, 6, device=DEVICE), torch.ones(8, 6, device=DEVICE)
    faulty[2, 1], faulty[7, 5] = 0.5, torch.nan
    holder = GateHolder(claims=[(0, 4), (4, 6)])
    holder.set(good)
    holder.check()
    with no_waiting():
        holder.set(faulty)
        gates, plan = holder.read(4, 6, 8, "a module")
    assert gates.shape == (8, 2)
    assert plan.num_components == 2
    with pytest.raises(GatesDiverged, match="2 gates are neither"):
        holder.check()


@pytest.fixture
def model() -> Iterator[AdaptiveModel]:
    """A small adapted LXMERT whose deltas have values."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    layers = {"language_layers": 2, "region_layers": 1, "cross_layers": 1}
    base = build_base(ModelConfig(**sizes, **layers), DataFacts(list("abcdefg"), 16, 40))
    model = get_adaptive_model(base, AdaptiveConfig()).to(DEVICE).train()
    with torch.no_grad():
        for _, delta in model.parameter_groups()["delta"]:
            delta.normal_(std=0.02)
    yield model
    use_path("auto")


def training_step(model: AdaptiveModel) -> dict[str, Tensor]:
    """The decisions and all gradients of one step, from the same random numbers every time."""
    torch.manual_seed(1)
    regions = {"visual_feats": torch.randn(8, 3, 16, device=DEVICE), "visual_pos": torch.rand(8, 3, 4, device=DEVICE)}
    model.zero_grad(set_to_none=True)
    output = model(input_ids=torch.randint(1, 40, (8, 5), device=DEVICE), **regions)
    F.softplus(output.question_answering_score).sum().backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return {"gates": output.gates.detach(), "gradients": torch.cat(gradients)}


def test_a_model_has_the_gradients_of_both_branches_in_full(model: AdaptiveModel) -> None:
    ours = training_step(model)
    use_path("reference")
    theirs = training_step(model)
    assert 0 < ours["gates"].mean() < 1
    assert torch.equal(ours["gates"], theirs["gates"])
    assert relative_error(ours["gradients"], theirs["gradients"]) <= 1e-4


def test_a_training_step_of_a_model_does_not_wait_for_the_device(model: AdaptiveModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    training_step(model)
    optimizer.step()
    with no_waiting():
        training_step(model)
        optimizer.step()
    model.holder.check()
