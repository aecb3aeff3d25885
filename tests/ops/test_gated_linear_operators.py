"""The gated linear layer as operators: seen whole by torch.compile and recomputation, nothing kept in vain."""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.utils.checkpoint import checkpoint

from adaptive_ft_kernels import gated_linear, plan_gates
from tests.ops.linear_cases import GATES, Inputs, draw, run


def elements_kept_for_backward(inputs: Inputs) -> int:
    """How many numbers the graph keeps besides the parameters and the plan that all layers share."""
    plan = plan_gates(inputs.gates)
    shared = [inputs.weight, inputs.delta_weight, inputs.delta_bias, plan.order_CB, plan.num_frozen_C]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        gated_linear(*inputs.arguments(), plan=plan)
    pointers = {value.data_ptr() for value in shared}
    return sum(value.numel() for value in kept if value.data_ptr() not in pointers)


def test_keeps_no_more_activations_than_ordinary_fine_tuning() -> None:
    inputs = draw(GATES["random"](4, 2))
    assert elements_kept_for_backward(inputs) == inputs.x.numel()
    for name in ("gates", "delta_weight", "delta_bias"):
        getattr(inputs, name).requires_grad_(False)
    assert elements_kept_for_backward(inputs) == 0


def test_torch_compile_sees_one_forward_and_one_backward_operator() -> None:
    inputs = draw(GATES["random"](4, 3)).to(torch.float32)
    plan, seen = plan_gates(inputs.gates), []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes if "adaptive_ft" in str(node.target))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(
        functools.partial(gated_linear, plan=plan), fullgraph=True, backend=aot_autograd(fw_compiler=keep)
    )
    grad = torch.randn(4, 5, 12)
    truth, ours = run(gated_linear, inputs, grad), run(compiled, inputs, grad)
    assert seen == ["adaptive_ft.gated_linear.default", "adaptive_ft.gated_linear_backward.default"]
    assert all(torch.equal(ours[name], value) for name, value in truth.items())


def test_activation_recomputation_gives_the_same_gradients() -> None:
    inputs = draw(GATES["random"](4, 3))
    grad = torch.randn(4, 5, 12, dtype=torch.float64)
    again = functools.partial(checkpoint, gated_linear, use_reentrant=False)
    truth, ours = run(gated_linear, inputs, grad), run(again, inputs, grad)
    assert all(torch.equal(ours[name], value) for name, value in truth.items())


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_operators_keep_the_promises_of_their_schema(has_bias: bool) -> None:
    inputs = draw(GATES["random"](4, 3))
    if not has_bias:
        inputs.bias = inputs.delta_bias = None
    plan = plan_gates(inputs.gates)
    x, _, weight, bias, delta_weight, delta_bias = (
        None if value is None else value.detach() for value in inputs.arguments()
    )
    torch.library.opcheck(
        torch.ops.adaptive_ft.gated_linear.default,
        (x, weight, bias, delta_weight, delta_bias, plan.order_CB, plan.num_frozen_C),
    )
    grad = torch.randn(4, 5, 12, dtype=torch.float64)
    for wanted in itertools.product((True, False), repeat=3):
        torch.library.opcheck(
            torch.ops.adaptive_ft.gated_linear_backward.default,
            (grad, x, weight, delta_weight, delta_bias, plan.order_CB, plan.num_frozen_C, plan.sampled_CM, wanted),
        )
