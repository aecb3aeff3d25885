"""Modules that run once, twice or for some samples only, on two ranks whose gates differ: under every ZeRO stage the
update is that of one process.

Shape suffixes: B batch, D decisions.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from tests.models.tiny_families import LXMERT

POLICY = PolicyConfig(embedding_size=4, hidden_size=8)
FORMS = {
    "blockdrop": AdaptiveConfig("blockdrop", policy=POLICY, gate_grad_fraction=0.5),
    "two_branch": AdaptiveConfig("spottune", policy=POLICY, gate_gradient="two_branch"),
}
# Columns: language 0 and 1, region 0, cross 0 and 1. No sample of the second rank uses language.1 or cross.0,
# and no sample at all uses region.0.
LAYERS_BD = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 1]]).float()
RANK = """
import sys
from pathlib import Path
import torch
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import run_ranks
from tests.test_forms_on_ranks import make_gates, make_inputs, make_model, loss

def main(ranks):
    own, form = slice(2 * ranks.rank, 2 * ranks.rank + 2), sys.argv[3]
    for stage in range(4):
        source = Path(sys.argv[2], f"ds_configs/zero{stage}.json")
        numbers = EngineNumbers(2, 1, ranks.world_size, 1.0, "fp32")
        model, optim = make_model(form), OptimConfig(learning_rate=1e-2, warmup_ratio=0.0, weight_decay=0.0)
        filled = fill_ds_config(read_ds_config(source), numbers, source)
        gates_BD = make_gates(model)[own]
        engine = Engine(model, model.parameter_groups(), optim, filled, ranks, total_updates=100)
        inputs = {name: value[own] for name, value in make_inputs().items()}
        for _ in range(2):
            engine.backward(loss(engine, inputs, gates_BD))
            engine.step()
        engine.module.eval()
        with torch.no_grad():
            evaluated = engine(**inputs, policy=gates_BD)["pooled_output"]
        torch.save((engine.gathered_trainable_state(), evaluated), f"{sys.argv[1]}/{stage}.{ranks.rank}.pt")

run_ranks(main)
"""


def make_model(form: str) -> AdaptiveModel:
    torch.manual_seed(0)
    return get_adaptive_model(LXMERT.build(), FORMS[form])


def make_gates(model: AdaptiveModel) -> Tensor:
    """Other gates for every sample; of layers those that leave one unused."""
    torch.manual_seed(2)
    gates_BD = torch.randint(0, 2, (4, len(model.decisions))).float()
    return LAYERS_BD if gates_BD.shape == LAYERS_BD.shape else gates_BD


def make_inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return LXMERT.inputs(4)


def loss(run: AdaptiveModel, inputs: dict[str, Tensor], gates_BD: Tensor) -> Tensor:
    """Mean over the samples; gates want a gradient, as those of a policy do."""
    output = run(**inputs, policy=gates_BD.clone().requires_grad_())
    mean: Tensor = output["pooled_output"].square().sum(1).mean()
    return mean


@pytest.mark.launch
@pytest.mark.parametrize("form", FORMS)
def test_two_ranks_with_different_gates_update_as_one_process(
    form: str, tmp_path: Path, two_ranks: Callable[..., None], repository: Path
) -> None:
    two_ranks(RANK, tmp_path, repository, form)

    model = make_model(form)
    gates_BD = make_gates(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6, weight_decay=0)
    for number in range(2):
        optimizer.param_groups[0]["lr"] = 1e-2 * (100 - number) / 100
        loss(model, make_inputs(), gates_BD).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        expected = model.eval()(**make_inputs(), policy=gates_BD)["pooled_output"]
    for stage in range(4):
        (state, first), (_, second) = (torch.load(tmp_path / f"{stage}.{rank}.pt") for rank in range(2))
        torch.testing.assert_close(torch.cat([first, second]), expected, rtol=1e-4, atol=1e-5)
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        for name, value in trained.items():
            # An update is 1e-2, but of the keys' biases, whose gradients are rounding alone.
            torch.testing.assert_close(state[name], value.detach(), rtol=1e-4, atol=1e-4)
