"""Twenty updates under every ZeRO stage on two ranks have the losses of one process on the same global batch.

The policy decides for every sample, so the ranks use different weights of the same layers; its gates go without noise,
which would be each rank's own. LXMERT's cross layers use one attention for both directions, with and without activation
checkpointing. Shape suffixes: B samples, D decisions.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_ft import AdaptiveModel, decider
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.gates import argmax_gates
from tests.cluster.ranks_by_hand import on_ranks
from tests.cluster.small_runs import OPTIM, SAMPLES, ds_config_of, make_engine, make_model
from tests.models.tiny_families import LXMERT

UPDATES, RANKS = 20, 2
CASES = [(stage, recompute) for stage in range(4) for recompute in (False, True)]
PROGRAM = """
import json, sys
from pathlib import Path
from adaptive_ft.engine.ranks import run_ranks
from tests.cluster.test_loss_curves import CASES, curve, without_noise
without_noise()
run_ranks(lambda ranks: Path(sys.argv[1], f"{ranks.rank}.json").write_text(
    json.dumps([curve(ranks, *case) for case in CASES])))
"""


def noiseless(logits_BD2: Tensor, temperature: float) -> Tensor:
    """The likelier choice forward, the gradient of the softmax backward."""
    soft_BD = torch.softmax(logits_BD2.float() / temperature, dim=-1)[..., 1]
    return argmax_gates(logits_BD2) + (soft_BD - soft_BD.detach())


def without_noise() -> None:
    decider.straight_through_gumbel = noiseless  # type: ignore[assignment]


def model_of(recompute: bool) -> AdaptiveModel:
    model = make_model().train()
    # Policies start undecided; these know their mind, so that rounding turns no gate.
    torch.manual_seed(2)
    torch.nn.init.normal_(model.policy.head[-1].weight, std=1.0)  # type: ignore[union-attr, arg-type]
    for _, delta in model.parameter_groups()["delta"]:
        torch.nn.init.normal_(delta, std=0.1)
    if recompute:
        model.gradient_checkpointing_enable()
    return model


def global_batch(update: int) -> dict[str, Tensor]:
    torch.manual_seed(100 + update)
    return LXMERT.inputs(RANKS * SAMPLES)


def loss_of(output: Any) -> Tensor:
    parts = (output[name] for name in ("pooled_output", "language_output", "vision_output"))
    total: Tensor = torch.stack([part.square().mean() for part in parts]).sum()
    return total


def curve(ranks: Ranks, stage: int, recompute: bool) -> dict[str, Any]:
    """The mean losses over the ranks, and this rank's gates of the first update."""
    engine = make_engine(model_of(recompute), ds_config_of(f"zero{stage}", "fp32", ranks.world_size), ranks)
    own = slice(SAMPLES * ranks.rank, SAMPLES * (ranks.rank + 1))
    losses, gates = [], []
    for update in range(UPDATES):
        output = engine(**{name: value[own] for name, value in global_batch(update).items()})
        loss = loss_of(output)
        engine.backward(loss)
        engine.step()
        losses.append(ranks.sum(loss.detach()).item() / ranks.world_size)
        gates.append(output.gates.tolist())
    return {"losses": losses, "gates": gates[0]}


def curve_of_one_process() -> list[float]:
    """The same written out in plain PyTorch."""
    model = model_of(recompute=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=OPTIM.weight_decay)
    losses = []
    for update in range(UPDATES):
        optimizer.param_groups[0]["lr"] = OPTIM.learning_rate * (100 - update) / 100
        loss = loss_of(model(**global_batch(update)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.launch
def test_every_stage_has_the_losses_of_one_process(
    tmp_path: Path, repository: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decider, "straight_through_gumbel", noiseless)
    expected = torch.tensor(curve_of_one_process())
    assert expected[-1] < 0.9 * expected[0], "it learns"
    first, second = on_ranks(PROGRAM, RANKS, tmp_path, repository, environment)
    for case, one, other in zip(CASES, first, second, strict=True):
        torch.testing.assert_close(torch.tensor(one["losses"]), expected, rtol=1e-4, atol=0, msg=str(case))
        assert one["losses"] == other["losses"]
        assert one["gates"] != other["gates"], "each rank's samples decide otherwise"
    # Stages differ in the order of sums alone, and checkpointing in nothing at all.
    for plain, recomputed in zip(first[::2], first[1::2], strict=True):
        assert plain["losses"] == recomputed["losses"]
