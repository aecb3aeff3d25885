"""Inversion: the update to the letter, starts that depend on nothing but seed and number, and the best on the way."""

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_ft.analysis.inversion import InversionConfig, invert, relative_distance, start_inputs
from adaptive_ft.analysis.representations import Reader
from adaptive_ft.errors import UserError
from tests.analysis.small_readers import counted, images, perceptron, reader_of

NUMBERS = torch.arange(5)


def linear_reader(weight_XD: Tensor) -> Reader:
    """One linear layer, whose gradient is known."""
    return Reader("linear", ("out",), (4,), lambda inputs, _, layers: {"out": inputs @ weight_XD.T})


def target_of(reader: Reader, inputs: Tensor, layer: str) -> Tensor:
    return reader(inputs, torch.arange(len(inputs)), [layer])[layer]


def test_the_steps_are_those_of_the_formula() -> None:
    """Three steps of a linear model in plain numpy: loss ||Wx - t|| / ||t||, gradient W'(Wx - t) / (...)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x, start = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64)
    reader, config = linear_reader(weight), InversionConfig(iterations=3, step=0.3)
    found = invert(reader, {"out": target_of(reader, x, "out")}, start, NUMBERS, config)["out"]
    w = weight.numpy()
    for row in range(5):
        t, moving, seen = w @ x[row].numpy(), start[row].numpy(), []
        for _ in range(4):
            off = w @ moving - t
            seen.append((np.linalg.norm(off) / np.linalg.norm(t), moving))
            gradient = w.T @ off / np.linalg.norm(off) / np.linalg.norm(t)
            moving = np.clip(moving - 0.3 * gradient / (np.linalg.norm(gradient) + 1e-10), 0, 1)
        loss, best = min(seen, key=lambda one: one[0])
        assert found.loss_B[row].item() == pytest.approx(loss, abs=1e-12)
        assert found.inputs_B[row].numpy() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("optimizer", "step"), [("normalised", 0.05), ("adam", 0.02)])
def test_the_search_comes_near_in_the_range(optimizer: str, step: float) -> None:
    reader, x = reader_of(perceptron(1)), images(5)
    config = InversionConfig(iterations=200, step=step, optimizer=optimizer)  # type: ignore[arg-type]
    starts = start_inputs(x, NUMBERS, config)
    target = target_of(reader, x, "block.1")
    found = invert(reader, {"block.1": target}, starts, NUMBERS, config)["block.1"]
    before = relative_distance(target_of(reader, starts, "block.1"), target)
    assert (found.loss_B < 0.1 * before).all()
    assert relative_distance(target_of(reader, found.inputs_B, "block.1"), target) == pytest.approx(found.loss_B)
    assert 0 <= found.inputs_B.min() < found.inputs_B.max() <= 1
    assert not found.inputs_B.requires_grad


def test_the_best_on_the_way_is_kept() -> None:
    """Steps that are far too long make everything worse: the start stays the best."""
    reader, x = reader_of(perceptron(1)), images(5)
    config = InversionConfig(iterations=4, step=1e3)
    near = (x + 1e-4).clamp(0, 1)
    found = invert(reader, {"block.0": target_of(reader, x, "block.0")}, near, NUMBERS, config)["block.0"]
    assert torch.equal(found.inputs_B, near)


def test_the_last_step_counts_too() -> None:
    reader, x = reader_of(perceptron(1)), images(5)
    config = InversionConfig(iterations=1, step=0.1)
    starts = start_inputs(x, NUMBERS, config)
    found = invert(reader, {"block.0": target_of(reader, x, "block.0")}, starts, NUMBERS, config)["block.0"]
    assert not torch.equal(found.inputs_B, starts)


@pytest.mark.parametrize("optimizer", ["normalised", "adam"])
def test_layers_together_and_images_in_batches_give_what_each_gives_alone(optimizer: str) -> None:
    reader, x = reader_of(perceptron(2)), images(5).double()
    config = InversionConfig(iterations=20, step=0.05, optimizer=optimizer)  # type: ignore[arg-type]
    reader = reader_of(perceptron(2).double())
    targets = {layer: target_of(reader, x, layer) for layer in ("block.0", "block.1")}
    both = invert(reader, targets, start_inputs(x, NUMBERS, config), NUMBERS, config)
    for layer, target in targets.items():
        for rows in (NUMBERS[:2], NUMBERS[2:]):
            alone = invert(reader, {layer: target[rows]}, start_inputs(x, rows, config), rows, config)[layer]
            assert torch.allclose(both[layer].inputs_B[rows], alone.inputs_B, atol=1e-9)


def test_a_search_costs_one_pass_per_step_and_one_to_judge_the_last() -> None:
    reader, passes = counted(reader_of(perceptron(2)))
    x, config = images(5), InversionConfig(iterations=7)
    targets = {layer: torch.rand(5, width) for layer, width in (("block.0", 32), ("block.1", 12))}
    invert(reader, targets, x, NUMBERS, config)
    assert (len(passes.searching), len(passes.looking)) == (7, 1)


def test_noise_depends_on_seed_and_number_alone() -> None:
    x, config = images(5), InversionConfig()
    noise = start_inputs(x, NUMBERS, config)
    assert torch.equal(start_inputs(x, NUMBERS[3:4], config), noise[3:4])
    assert not torch.equal(start_inputs(x, NUMBERS, InversionConfig(seed=2)), noise)
    assert len({row.sum().item() for row in noise}) == 5
    unbounded = start_inputs(x, NUMBERS, InversionConfig(low=None, high=None))
    assert unbounded.min() < -1
    assert torch.equal(noise, unbounded.clamp(0, 1))  # inside before the first step


def test_other_starts() -> None:
    x = images(5)
    same = start_inputs(x, NUMBERS, InversionConfig(start="same_noise"))
    assert all(torch.equal(row, same[0]) for row in same)
    uniform = start_inputs(x, NUMBERS, InversionConfig(start="uniform", low=-2.0, high=-1.0))
    assert -2 <= uniform.min() < -1.9 < -1.1 < uniform.max() <= -1
    for start, level in (("white", 3.0), ("black", -2.0)):
        config = InversionConfig(start=start, low=-2.0, high=3.0)  # type: ignore[arg-type]
        assert (start_inputs(x, NUMBERS, config) == level).all()
    # Of five the middle one would begin at its own target: it begins at the first.
    assert torch.equal(start_inputs(x, NUMBERS, InversionConfig(start="flipped")), x[[4, 3, 0, 1, 0]])
    assert torch.equal(start_inputs(x[:4], NUMBERS[:4], InversionConfig(start="flipped")), x[:4].flip(0))


def test_the_numbers_of_the_images_reach_the_model_with_every_copy() -> None:
    """What is fixed beside an input, as a question, is found by its number."""
    fixed = torch.tensor([[1.0], [2.0], [3.0]])

    def read(inputs: Tensor, numbers: Tensor, layers: object) -> dict[str, Tensor]:
        return {"a": inputs * fixed[numbers], "b": inputs + fixed[numbers]}

    reader, numbers, x = Reader("fixed", ("a", "b"), (2,), read), torch.tensor([2, 0]), torch.rand(2, 2)
    targets = reader(x, numbers, ["a", "b"])
    found = invert(reader, targets, torch.zeros(2, 2), numbers, InversionConfig(iterations=300, step=0.02))
    for layer in ("a", "b"):
        assert torch.allclose(found[layer].inputs_B, x, atol=0.03)


def test_a_target_of_zeros_and_an_exact_match_leave_numbers() -> None:
    reader, config = linear_reader(torch.eye(4)), InversionConfig(iterations=3)
    for target, start in ((torch.zeros(1, 4), torch.rand(1, 4)), (torch.ones(1, 4), torch.ones(1, 4))):
        found = invert(reader, {"out": target}, start, torch.arange(1), config)["out"]
        assert found.inputs_B.isfinite().all()
    assert found.loss_B.item() == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"step": 0.0}, "step is 0.0: it must be above 0"),
        ({"low": 1.0}, "low 1.0 is not below high 1.0"),
        ({"start": "white", "high": None}, "start 'white' needs a range"),
    ],
)
def test_options_that_cannot_work_are_told(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        InversionConfig(**options)  # type: ignore[arg-type]


def test_targets_that_do_not_fit_are_refused() -> None:
    for targets in ({}, {"out": torch.zeros(3, 4)}):
        with pytest.raises(ValueError, match="each needs one row per start"):
            invert(linear_reader(torch.eye(4)), targets, torch.zeros(2, 4), torch.arange(2), InversionConfig())
