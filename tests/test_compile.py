"""torch.compile takes the adapted base whole: one graph, without a break at a gate."""

import torch
from torch import Tensor, nn

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base

SIZES = ModelConfig(
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    language_layers=1,
    region_layers=1,
    cross_layers=1,
    max_position_embeddings=12,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)


def test_the_base_compiles_into_one_graph_with_the_same_gradients() -> None:
    base = build_base(SIZES, DataFacts(list("abcde"), 8, 50))
    model = get_adaptive_model(base, AdaptiveConfig(strategy="spottune")).train()
    inputs = {
        "input_ids": torch.randint(0, 50, (4, 6)),
        "visual_feats": torch.randn(4, 7, 8),
        "visual_pos": torch.rand(4, 7, 4),
    }
    gates = torch.rand(4, len(model.decisions)).round().requires_grad_()
    # All but the gradients' graphs is the compiler's business here: no C++ compiler is needed.
    compiled = torch.compile(model.base, fullgraph=True, backend="aot_eager")

    def gradients(forward: nn.Module) -> list[Tensor]:
        model.holder.set(model.tying.expand(gates))
        loss = forward(**inputs, return_dict=True).question_answering_score.square().sum()
        wanted = [gates, *(parameter for parameter in base.parameters() if parameter.requires_grad)]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return [loss.detach(), *(value for value in found if value is not None)]

    for ours, plain in zip(gradients(compiled), gradients(model.base), strict=True):
        torch.testing.assert_close(ours, plain)
