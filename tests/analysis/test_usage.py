"""Gate usage: exact shares, dead decisions left out, the same however ranks and checkpoints split the count."""

import math

import pytest
import torch

from adaptive_ft.analysis.usage import UsageMeter, decision_shares, summary_of
from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.strategies import Tying, tie


@pytest.fixture
def tying() -> Tying:
    """Three decisions over five components; the last decision is dead, one component is always tuned."""
    return Tying(decisions=("a", "b", "c"), index=(0, 0, 1, -2, 2), num_live=(2, 1, 0))


GATES = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])


def test_shares_per_decision_and_component(tying: Tying) -> None:
    meter = UsageMeter(tying)
    meter.update(GATES[:3])
    meter.update(GATES[3:])
    assert meter.num_samples == 4
    assert meter.decision_shares().tolist() == [0.75, 0.0, 1.0]
    assert meter.component_shares().tolist() == [0.75, 0.75, 0.0, 1.0, 1.0]


def test_summary_leaves_dead_decisions_out(tying: Tying) -> None:
    meter = UsageMeter(tying)
    meter.update(GATES)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert meter.summary() == pytest.approx(
        {
            "mean_tuned_share": (0.75 + 0.75 + 0.0 + 1.0) / 4,
            "decisions": 2,
            "always_on": 0,
            "always_off": 1,
            "mean_entropy_bits": entropy / 2,
            "effective_decisions": entropy,
        }
    )


def test_padding_rows_do_not_count(tying: Tying) -> None:
    meter = UsageMeter(tying)
    meter.update(GATES, torch.tensor([True, False, True, False]))
    assert meter.num_samples == 2
    assert meter.decision_shares().tolist() == [0.5, 0.0, 1.0]


def test_reduced_precision_gates_are_counted_exactly(tying: Tying) -> None:
    """1000 ones summed in bfloat16 would stop at 256."""
    meter = UsageMeter(tying)
    meter.update(torch.ones(1000, 3, dtype=torch.bfloat16, requires_grad=True))
    assert meter.decision_shares().tolist() == [1.0, 1.0, 1.0]
    assert not meter.state_dict()["counts"].requires_grad


def test_ranks_add_up_and_settling_counts_once(tying: Tying) -> None:
    first, second, whole = UsageMeter(tying), UsageMeter(tying), UsageMeter(tying)
    first.update(GATES[:1])
    second.update(GATES[1:])
    whole.update(GATES)
    parts = [meter.state_dict()["counts"] for meter in (first, second)]
    first.settle(lambda counts: parts[0] + counts * 0 + parts[1], keep=True)
    second.settle(lambda counts: parts[0] + counts * 0 + parts[1], keep=False)
    assert first.summary() == whole.summary()
    assert second.num_samples == 0


def test_a_saved_count_goes_on(tying: Tying) -> None:
    meter, resumed = UsageMeter(tying), UsageMeter(tying)
    meter.update(GATES[:2])
    saved = meter.state_dict()
    resumed.load_state_dict(saved)
    resumed.update(GATES[2:])
    assert resumed.decision_shares().tolist() == [0.75, 0.0, 1.0]
    meter.reduce(lambda counts: counts.mul_(2))
    assert saved["counts"].tolist() == [2.0, 0.0, 2.0, 2.0]  # a reduction in place leaves it alone
    with pytest.raises(ValueError, match="counts 3 decisions but this strategy has 1"):
        UsageMeter(Tying(("a",), (0,), (1,))).load_state_dict(meter.state_dict())


@pytest.mark.parametrize(("strategy", "share"), [("standard", 1.0), ("pretrained_frozen", 0.0), ("last_1", 0.5)])
def test_strategies_without_decisions_have_a_share_too(strategy: str, share: float) -> None:
    components = ComponentMap((Component("language.0", "ffn.in"), Component("language.1", "ffn.in")), live=(True, True))
    meter = UsageMeter(tie(strategy, components))
    meter.update(torch.zeros(3, 0))
    summary = meter.summary()
    assert (summary["mean_tuned_share"], summary["decisions"], summary["mean_entropy_bits"]) == (
        share,
        0,
        0.0,
    )


def test_a_summary_can_be_made_of_the_shares_of_components(tying: Tying) -> None:
    """As a run's CSV files hold them."""
    meter = UsageMeter(tying)
    meter.update(GATES)
    shares = decision_shares(tying, meter.component_shares())
    assert shares.tolist() == meter.decision_shares().tolist()
    assert summary_of(tying, shares) == meter.summary()
