"""Gates from logits, and the holder that carries them to the gated modules."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adaptive_ft.gates import GateHolder, GatesDiverged, annealed_temperature, argmax_gates, straight_through_gumbel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gumbel_gates_are_exactly_0_or_1_and_float32(dtype: torch.dtype) -> None:
    gates = straight_through_gumbel(torch.randn(50, 40, 2).to(dtype), temperature=5.0)
    assert gates.dtype == torch.float32
    assert set(gates.unique().tolist()) == {0.0, 1.0}


def test_gumbel_gates_follow_the_softmax_of_the_logits() -> None:
    """The Gumbel-max rule: P(tuned) = softmax(logits)[1]; 20,000 draws are within .02 (over 5 sigma)."""
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).expand(20_000, 3, 2)
    frequency = straight_through_gumbel(logits, temperature=5.0).mean(0)
    torch.testing.assert_close(frequency, logits[0].softmax(-1)[:, 1], atol=0.02, rtol=0)


def test_temperature_changes_the_gradient_and_not_the_gates() -> None:
    logits = torch.randn(8, 6, 2, requires_grad=True)
    gates, gradients = [], []
    for temperature in (0.5, 5.0):
        torch.manual_seed(3)
        gates.append(straight_through_gumbel(logits, temperature))
        gradients.append(torch.autograd.grad(gates[-1].sum(), logits)[0])
    assert torch.equal(gates[0], gates[1])
    assert not torch.allclose(gradients[0], gradients[1])


def test_gradient_is_that_of_the_tempered_softmax() -> None:
    logits = torch.randn(8, 6, 2, requires_grad=True)
    torch.manual_seed(3)
    (gradient,) = torch.autograd.grad(straight_through_gumbel(logits, 5.0).sum(), logits)
    torch.manual_seed(3)
    noise = -torch.log(-torch.log(torch.rand(8, 6, 2) + 1e-20) + 1e-20)
    soft = ((logits + noise) / 5.0).softmax(-1)[..., 1]
    torch.testing.assert_close(gradient, torch.autograd.grad(soft.sum(), logits)[0])


def test_the_temperature_is_annealed_by_equal_factors_or_stays() -> None:
    annealed = [annealed_temperature(8.0, 0.5, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert annealed == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5])
    assert annealed_temperature(5.0, None, 0.7) == 5.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_gumbel_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        straight_through_gumbel(torch.zeros(1, 1, 2), temperature)


def test_argmax_takes_the_likelier_choice_and_freezes_a_tie() -> None:
    logits = torch.tensor([[[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]]], requires_grad=True)
    gates = argmax_gates(logits)
    assert gates.tolist() == [[1.0, 0.0, 0.0]]
    assert not gates.requires_grad


@pytest.mark.parametrize("make", [argmax_gates, lambda logits: straight_through_gumbel(logits, 5.0)])
def test_diverged_logits_are_refused_and_never_taken_for_frozen(make: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(GatesDiverged, match=r"is nan.*logits have diverged"):
        GateHolder().set(make(torch.full((2, 3, 2), float("nan"))))


def test_a_holder_that_tells_later_does_so_when_asked() -> None:
    """The gates that are no numbers pass, and their gradient too; other faulty ones are still refused at once."""
    holder = GateHolder(claims=[(0, 2)])
    with holder.told_later():
        holder.set(torch.tensor([[1.0, float("nan")], [0.0, 1.0]], requires_grad=True))
        gates, plan = holder.read(0, 2, 2, "query")
        assert gates.isnan().sum() == 1
        assert plan.num_frozen_C.tolist() == [1, 0]
        with pytest.raises(GatesDiverged, match="1 gates are neither"):
            holder.check()
        holder.check()
        with pytest.raises(ValueError, match=r"is 0\.5"):
            holder.set(torch.tensor([[0.5, 1.0]]))
    with pytest.raises(GatesDiverged, match="is nan"):
        holder.set(torch.tensor([[1.0, float("nan")]]))


def test_holder_hands_out_columns_and_collects_their_gradients() -> None:
    gates = torch.tensor([[0.0, 1, 1], [1, 0, 1]], requires_grad=True)
    holder = GateHolder(claims=[(0, 2), (2, 3)])
    holder.set(gates)
    heads, plan = holder.read(0, 2, 2, "query")
    again, _ = holder.read(0, 2, 2, "key")
    last, _ = holder.read(2, 3, 2, "output")
    assert torch.equal(heads, gates[:, :2])
    assert torch.equal(last, gates[:, 2:])
    assert plan.num_frozen_C.tolist() == [1, 1]
    (heads.sum() + 2 * again.sum() + 5 * last.sum()).backward()
    assert gates.grad.tolist() == [[3.0, 3.0, 5.0]] * 2


def test_holder_forgets_the_last_batch() -> None:
    holder = GateHolder()
    holder.set(torch.zeros(2, 3))
    assert holder.read(0, 3, 2, "query")[1].num_frozen_C.tolist() == [2, 2, 2]
    holder.set(torch.ones(4, 3))
    assert holder.read(0, 3, 4, "query")[1].num_frozen_C.tolist() == [0, 0, 0]


def test_draws_of_the_holder_follow_its_seed() -> None:
    holder = GateHolder(0.25, claims=[(0, 5)])

    def drawn(seed: int) -> list[list[list[int]]]:
        holder.seed(seed)
        draws = []
        for _ in range(2):
            holder.set(torch.zeros(8, 5, requires_grad=True) * 1)
            draws.append(holder.read(0, 5, 8, "query")[1].sampled_CM.tolist())
        return draws

    first = drawn(1)
    assert first[0] != first[1]
    assert drawn(1) == first
    assert drawn(2) != first


def test_all_samples_are_evaluated_where_no_gradient_is_wanted() -> None:
    holder = GateHolder(0.25)
    holder.set(torch.zeros(8, 5))
    assert holder.read(0, 5, 8, "query")[1].sampled_CM.shape == (5, 8)


def test_check_is_silent_for_gates_of_zeros_and_ones() -> None:
    holder = GateHolder()
    holder.check()
    holder.set(torch.ones(2, 3))
    holder.check()


def test_modules_share_all_their_columns_or_none() -> None:
    holder = GateHolder()
    for module in ("query", "key"):
        holder.claim(2, 4, module)
    holder.claim(4, 5, "output")
    with pytest.raises(ValueError, match=r"value claims gate columns 3:5, which overlap the columns (2:4|4:5)"):
        holder.claim(3, 5, "value")


def test_holder_errors_name_the_module_and_the_numbers() -> None:
    holder = GateHolder(claims=[(0, 1)])
    with pytest.raises(ValueError, match=r"layer\.0\.query ran without gates"):
        holder.read(0, 1, 2, "layer.0.query")
    holder.set(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"layer\.0\.query got a batch of 5 .* for 2 samples"):
        holder.read(0, 1, 5, "layer.0.query")
    with pytest.raises(ValueError, match=r"layer\.0\.query reads gate columns 2:4 but 3 are set"):
        holder.read(2, 4, 2, "layer.0.query")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_of_a_holder_are_empty(duplicate: Callable[[GateHolder], GateHolder]) -> None:
    holder = GateHolder(claims=[(0, 1)])
    holder.set(torch.zeros(2, 3, requires_grad=True) * 1)
    with pytest.raises(ValueError, match="ran without gates"):
        duplicate(holder).read(0, 1, 2, "query")
    holder.read(0, 1, 2, "query")
    assert duplicate(GateHolder(0.25)).gate_grad_fraction == 0.25
