"""gated_mix against the two-branch reference: forward, every gradient, hard and soft gates."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.gated_mix import gated_mix

RESULTS = ("y", "tuned", "frozen", "gates")


@pytest.fixture(autouse=True)
def nan_filled_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(gates: Tensor, shape: tuple[int, ...] = (5, 24), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Leaves: random tuned and frozen [B, *shape], and these gates."""
    inputs = [*torch.randn(2, len(gates), *shape, dtype=torch.float64).to(dtype), gates.clone()]
    return [value.requires_grad_() for value in inputs]


def run(operation: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> dict[str, Tensor]:
    """The output and every gradient by name."""
    y = operation(*inputs)
    return dict(zip(RESULTS, (y.detach(), *torch.autograd.grad(y, inputs, grad)), strict=True))


def relative_error(value: Tensor, truth: Tensor) -> float:
    difference = (value.double() - truth.double()).norm()
    return float(difference / truth.double().norm().clamp_min(1e-30))


def check_against_reference(inputs: list[Tensor], grad: Tensor | None = None) -> None:
    grad = torch.randn(inputs[0].shape, dtype=torch.float64) if grad is None else grad
    truth = run(reference.gated_mix, inputs, grad)
    for name, value in run(gated_mix, inputs, grad).items():
        assert value.shape == truth[name].shape, name
        assert relative_error(value, truth[name]) <= 1e-12, name


@pytest.mark.parametrize("num_components", [1, 2, 12])
@pytest.mark.parametrize("inner", [(), (1,), (7,), (3, 5)])
@pytest.mark.parametrize("num_samples", [1, 4])
def test_equals_reference(num_samples: int, inner: tuple[int, ...], num_components: int) -> None:
    check_against_reference(draw(torch.rand(num_samples, num_components, dtype=torch.float64), (*inner, 24)))


def test_takes_strided_and_expanded_tensors() -> None:
    gates = torch.rand(4, 3, dtype=torch.float64)
    inputs = [*torch.randn(2, 24, 5, 4, dtype=torch.float64).permute(0, 3, 2, 1), gates[:, :1].expand(4, 3)]
    inputs = [value.detach().requires_grad_() for value in inputs]
    check_against_reference(inputs, torch.ones((), dtype=torch.float64).expand(4, 5, 24))


def test_one_gate_per_sample_may_be_a_vector() -> None:
    tuned, frozen, gates = draw(torch.rand(4, dtype=torch.float64))
    results, expected = (
        run(gated_mix, [tuned, frozen, given], torch.ones(4, 5, 24, dtype=torch.float64))
        for given in (gates, gates.detach()[:, None].requires_grad_())
    )
    assert results["gates"].shape == (4,)
    assert all(torch.equal(results[name].flatten(), expected[name].flatten()) for name in RESULTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_of_zero_and_one_give_one_branch_exactly(dtype: torch.dtype) -> None:
    tuned, frozen, gates = draw((torch.rand(6, 4) < 0.5).float(), dtype=dtype)
    chosen = gates.repeat_interleave(6, dim=1)[:, None] == 1
    assert torch.equal(gated_mix(tuned, frozen, gates), torch.where(chosen, tuned, frozen))


def test_bfloat16_is_as_exact_as_the_two_branch_way() -> None:
    inputs, grad = draw(torch.rand(8, 3), (20, 96), torch.bfloat16), torch.randn(8, 20, 96).bfloat16()
    truth = run(reference.gated_mix, [value.detach().double().requires_grad_() for value in inputs], grad.double())
    ours, theirs = run(gated_mix, inputs, grad), run(reference.gated_mix, inputs, grad)
    for name in RESULTS:
        assert ours[name].dtype == theirs[name].dtype, name
        assert relative_error(ours[name], truth[name]) <= 2 * relative_error(theirs[name], truth[name]), name


def test_leaves_its_inputs_alone() -> None:
    inputs, grad = draw(torch.rand(4, 2, dtype=torch.float64)), torch.randn(4, 5, 24, dtype=torch.float64)
    before = [value.detach().clone() for value in [*inputs, grad]]
    gated_mix(*inputs).backward(grad)
    assert all(torch.equal(new, old) for new, old in zip([*inputs, grad], before, strict=True))


def test_refuses_what_does_not_fit() -> None:
    tuned, frozen, gates = draw(torch.rand(4, 2))
    with pytest.raises(ValueError, match=r"of one shape and dtype, got \[4, 5, 24\] .* and \[4, 4, 24\]"):
        gated_mix(tuned, frozen[:, :4], gates)
    with pytest.raises(ValueError, match=r"torch\.float64 and .* torch\.float32"):
        gated_mix(tuned, frozen.float(), gates)
    with pytest.raises(ValueError, match=r"gates for 4 samples .* got \[3, 2\]"):
        gated_mix(tuned, frozen, gates[:3])
    with pytest.raises(ValueError, match="24 features cannot be split evenly over 5 components"):
        gated_mix(tuned, frozen, torch.rand(4, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_keep_the_rules_of_torch_library(dtype: torch.dtype) -> None:
    inputs = [value.detach() for value in draw(torch.rand(4, 2), dtype=dtype)]
    torch.library.opcheck(torch.ops.adaptive_ft.gated_mix.default, tuple(inputs))
    backward = torch.ops.adaptive_ft.gated_mix_backward.default
    torch.library.opcheck(backward, (torch.ones_like(inputs[0]), *inputs))


def test_compiles_whole_and_recomputes_alike() -> None:
    inputs, grad = draw(torch.rand(4, 2), dtype=torch.float32), torch.randn(4, 5, 24)
    expected = run(gated_mix, inputs, grad)
    compiled = torch.compile(gated_mix, fullgraph=True, backend="aot_eager")
    for way in (compiled, lambda *inputs: checkpoint(gated_mix, *inputs, use_reentrant=False)):
        results = run(way, inputs, grad)
        assert all(torch.equal(results[name], expected[name]) for name in RESULTS)
