"""BlockDrop on two ranks whose samples use different layers: under every ZeRO stage the update is that of one process.

Shape suffixes: B batch, D decisions.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from tests.models.tiny_families import LXMERT

# Columns: language 0 and 1, region 0, cross 0 and 1. No sample of the second rank uses language.1 or cross.0,
# and no sample at all uses region.0.
GATES_BD = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 1]]).float()
RANK = """
import sys
from pathlib import Path
import torch
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import run_ranks
from tests.test_bypass_on_ranks import GATES_BD, make_inputs, make_model, loss

def main(ranks):
    own = slice(2 * ranks.rank, 2 * ranks.rank + 2)
    for stage in range(4):
        source = Path(sys.argv[2], f"ds_configs/zero{stage}.json")
        numbers = EngineNumbers(2, 1, ranks.world_size, 1.0, "fp32")
        model, optim = make_model(), OptimConfig(learning_rate=1e-2, warmup_ratio=0.0, weight_decay=0.0)
        filled = fill_ds_config(read_ds_config(source), numbers, source)
        engine = Engine(model, model.parameter_groups(), optim, filled, ranks, total_updates=100)
        inputs = {name: value[own] for name, value in make_inputs().items()}
        for _ in range(2):
            engine.backward(loss(engine, inputs, GATES_BD[own]))
            engine.step()
        engine.module.eval()
        with torch.no_grad():
            evaluated = engine(**inputs, policy=GATES_BD[own])["pooled_output"]
        torch.save((engine.gathered_trainable_state(), evaluated), f"{sys.argv[1]}/{stage}.{ranks.rank}.pt")

run_ranks(main)
"""


def make_model() -> AdaptiveModel:
    torch.manual_seed(0)
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    return get_adaptive_model(LXMERT.build(), AdaptiveConfig("blockdrop", policy=policy, gate_grad_fraction=0.5))


def make_inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return LXMERT.inputs(4)


def loss(run: AdaptiveModel, inputs: dict[str, Tensor], gates_BD: Tensor) -> Tensor:
    """Mean over the samples; gates want a gradient, as those of a policy do."""
    output = run(**inputs, policy=gates_BD.clone().requires_grad_())
    mean: Tensor = output["pooled_output"].square().sum(1).mean()
    return mean


@pytest.mark.launch
def test_two_ranks_with_different_layers_update_as_one_process(
    tmp_path: Path, two_ranks: Callable[..., None], repository: Path
) -> None:
    two_ranks(RANK, tmp_path, repository)

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6, weight_decay=0)
    for number in range(2):
        optimizer.param_groups[0]["lr"] = 1e-2 * (100 - number) / 100
        loss(model, make_inputs(), GATES_BD).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        expected = model.eval()(**make_inputs(), policy=GATES_BD)["pooled_output"]
    for stage in range(4):
        (state, first), (_, second) = (torch.load(tmp_path / f"{stage}.{rank}.pt") for rank in range(2))
        torch.testing.assert_close(torch.cat([first, second]), expected, rtol=1e-4, atol=1e-5)
        for name, value in model.named_parameters():
            torch.testing.assert_close(state[name], value.detach(), rtol=1e-4, atol=1e-5)
