"""BlockDrop beside dropout: looking at layers that samples skip changes nothing for those that use them.

Shape suffixes: B batch, D decisions.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from tests.models.tiny_families import TINY, WIDTH


def adapt(base: nn.Module, gate_grad_fraction: float = 1, **options: Any) -> AdaptiveModel:
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    config = AdaptiveConfig("blockdrop", policy=policy, gate_grad_fraction=gate_grad_fraction, **options)
    return get_adaptive_model(copy.deepcopy(base), config).train()


@pytest.fixture
def dropping() -> Any:
    """A BERT in float64 with dropout, in training mode."""
    config = TINY["bert"].config()
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.3
    return TINY["bert"].backbone(config).double().train()


def step(model: AdaptiveModel, gates_BD: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
    """Output, gradient of the gates, and the next random number, of a training step from fixed seeds."""
    torch.manual_seed(5)
    model.holder.seed(7)
    leaf_BD = gates_BD.clone().requires_grad_()
    output = model(**inputs, policy=leaf_BD).pooler_output
    (output * torch.linspace(1, 2, WIDTH)).sum().backward()
    return output.detach(), leaf_BD.grad, torch.rand(())


def test_dropout_does_not_depend_on_whose_gate_gradient_is_evaluated(dropping: Any) -> None:
    """What only looks at a skipped layer draws its own random numbers; and a step can be done again."""
    inputs, gates_BD = TINY["bert"].inputs(8), (torch.arange(24).view(8, 3) % 2).double()
    whole, of_whole, after_whole = step(adapt(dropping), gates_BD, inputs)
    quarter, of_quarter, after_quarter = step(adapt(dropping, gate_grad_fraction=0.25), gates_BD, inputs)
    assert torch.equal(whole, quarter)
    assert torch.equal(after_whole, after_quarter)
    assert of_whole is not None
    assert of_quarter is not None
    assert not torch.equal(of_whole, of_quarter)
    again = step(adapt(dropping), gates_BD, inputs)
    assert torch.equal(again[0], whole)
    assert again[1] is not None
    assert torch.equal(again[1], of_whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_dropout_on_the_gpu_does_not_depend_on_it_either(dropping: Any) -> None:
    dropping.cuda()
    inputs = {name: value.cuda() for name, value in TINY["bert"].inputs(8).items()}
    gates_BD = (torch.arange(24, device="cuda").view(8, 3) % 2).double()
    outputs = []
    for fraction in (1.0, 0.25):
        model = adapt(dropping, gate_grad_fraction=fraction)
        torch.manual_seed(5)
        output = model(**inputs, policy=gates_BD.clone().requires_grad_()).pooler_output.detach()
        outputs.append((output, torch.rand((), device="cuda")))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])


def test_every_look_at_a_skipped_layer_has_other_dropout(dropping: Any) -> None:
    """Of one step to the next, and of one layer to another, as if each drew from the common numbers."""
    model, inputs = adapt(dropping), TINY["bert"].inputs(4)
    seen: list[Tensor] = []
    for layer in model.base.encoder.layer:
        layer.attention.output.dropout.register_forward_hook(lambda _, __, output: seen.append(output == 0))
    for _ in range(2):
        gates_BD = torch.zeros(4, 3).double().requires_grad_()
        model(**inputs, policy=gates_BD)
    looks = [kept for kept in seen if len(kept) == 4]
    assert len(looks) == 6, "three layers, two steps"
    assert all(not torch.equal(one, other) for i, one in enumerate(looks) for other in looks[:i])
