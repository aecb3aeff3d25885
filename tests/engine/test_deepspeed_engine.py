"""DeepSpeed in our hands: one update is AdamW's, accumulation and clipping count right, save and load are exact."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError

OPTIM = OptimConfig(learning_rate=1e-2, warmup_ratio=0.0, max_grad_norm=0.5, weight_decay=0.1)


class Toy(nn.Module):
    """A frozen and a trainable layer; the loss is a mean of squares."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tuned = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tuned(torch.tanh(self.frozen(x))).square().mean()


def make_engine(
    ranks: Ranks,
    ds_config: Path,
    accumulation: int = 1,
    precision: str = "fp32",
    optim: OptimConfig = OPTIM,
) -> Engine:
    model = Toy()
    groups = {"delta": [(name, value) for name, value in model.named_parameters() if value.requires_grad]}
    numbers = EngineNumbers(4, accumulation, ranks.world_size, optim.max_grad_norm, precision)
    filled = fill_ds_config(read_ds_config(ds_config), numbers, ds_config)
    return Engine(model, groups, optim, filled, ranks, total_updates=8)


def batches(count: int) -> Tensor:
    return torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(5)) * 5


def update(engine: Engine, data: Tensor) -> None:
    for batch in data:
        engine.backward(engine(x=batch.to(engine.dtype)))
        engine.step()


def tuned(engine: Engine) -> dict[str, Tensor]:
    return engine.gathered_trainable_state()


@pytest.fixture(autouse=True)
def plain_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeRO-3 puts its own function in the place of `torch.nn.functional.linear`; other tests get torch's back."""
    monkeypatch.setattr(nn.functional, "linear", nn.functional.linear)


@pytest.fixture(params=["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "bf16"])
def ds_config(request: pytest.FixtureRequest, repository: Path) -> Path:
    """Each of the ready configs."""
    return repository / f"ds_configs/{request.param}.json"


def test_updates_are_those_of_plain_torch(ranks: Ranks, ds_config: Path) -> None:
    """Three clipped AdamW updates with a falling rate, against the same written out; the norm is the unclipped one."""
    engine, model = make_engine(ranks, ds_config), Toy()
    optimizer = torch.optim.AdamW(model.tuned.parameters(), betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=0.1)
    for number, batch in enumerate(batches(3)):
        update(engine, batch[None])
        model(batch).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.max_grad_norm)
        optimizer.param_groups[0]["lr"] = OPTIM.learning_rate * (8 - number) / 8
        optimizer.step()
        optimizer.zero_grad()
        assert norm > OPTIM.max_grad_norm, "the data makes clipping matter"
        assert engine.gradient_norm() == pytest.approx(norm.item(), rel=1e-5)
    for name, value in tuned(engine).items():
        torch.testing.assert_close(value, dict(model.named_parameters())[name].detach(), rtol=1e-5, atol=1e-6)
    assert engine.updates == 3


def test_accumulation_counts_updates_not_batches(ranks: Ranks, repository: Path) -> None:
    """Two micro-batches make one update, equal to the update of both at once."""
    ds_config = repository / "ds_configs/zero2.json"
    whole, halves = make_engine(ranks, ds_config), make_engine(ranks, ds_config, accumulation=2)
    data = batches(4)
    update(halves, data)
    update(whole, data.reshape(2, 8, 4))
    assert (whole.updates, halves.updates) == (2, 2)
    for name, value in tuned(halves).items():
        torch.testing.assert_close(value, tuned(whole)[name], rtol=1e-5, atol=1e-6)


def test_weights_of_a_run_in_bf16_are_the_masters(ranks: Ranks, ds_config: Path) -> None:
    """Numbers between those of bfloat16, which the weights that the model computes with are rounded from."""
    engine = make_engine(ranks, ds_config, precision="bf16", optim=replace(OPTIM, learning_rate=1e-4))
    update(engine, batches(1))
    held = {name: value.detach() for name, value in engine.module.named_parameters()}
    for name, value in tuned(engine).items():
        assert value.dtype == torch.float32
        rounded = value.to(torch.bfloat16)
        assert not torch.equal(rounded.float(), value)
        if engine.zero_stage < 3:
            assert torch.equal(rounded, held[name])


def test_save_and_load_is_exact_and_without_the_frozen_half(ranks: Ranks, ds_config: Path, tmp_path: Path) -> None:
    """Four updates at once = two, save, load into a new engine, two more: the same bits; frozen weights stay out."""
    data = batches(4)
    through, first, second = (make_engine(ranks, ds_config) for _ in range(3))
    update(through, data)
    update(first, data[:2])
    first.save(tmp_path, "step_000002", {"epoch": 1})
    assert not (tmp_path / "latest").exists(), "the pointer is ours to move"
    saved = torch.load(next((tmp_path / "step_000002").glob("*model_states.pt")), weights_only=False)
    assert not [name for name in saved["module"] if "frozen" in name]
    state = second.load(tmp_path, "step_000002")
    assert (state["epoch"], second.updates) == (1, 2)
    update(second, data[2:])
    for name, value in tuned(second).items():
        assert torch.equal(value, tuned(through)[name]), name


def test_a_loaded_engine_obeys_its_own_settings(ranks: Ranks, ds_config: Path, tmp_path: Path) -> None:
    """DeepSpeed brings the groups of the checkpoint; rate, decay, betas and eps of the config given now count."""
    first = make_engine(ranks, ds_config)
    update(first, batches(2))
    first.save(tmp_path, "step_000002", {})
    changed = replace(OPTIM, learning_rate=0.5, weight_decay=0.3, betas=(0.6, 0.7), eps=1e-3)
    second = make_engine(ranks, ds_config, optim=changed)
    second.load(tmp_path, "step_000002")
    group = second.optimizer.param_groups[0]
    assert [group[name] for name in ("base_lr", "weight_decay", "betas", "eps")] == [0.5, 0.3, (0.6, 0.7), 1e-3]
    second.backward(second(x=batches(1)[0]))
    assert second.step() == {"delta": pytest.approx(0.5 * 6 / 8)}


def test_the_first_update_that_diverged_is_known(ranks: Ranks, ds_config: Path) -> None:
    """Sound gradients leave no mark; from the first that are not finite on, the mark stays at that update."""
    engine = make_engine(ranks, ds_config)
    data = batches(3)
    data[1] = math.nan
    update(engine, data[:1])
    assert engine.diverged_at() is None
    update(engine, data[1:])
    assert engine.diverged_at() == 2


def test_another_model_is_refused(ranks: Ranks, repository: Path, tmp_path: Path) -> None:
    """A checkpoint that lacks what trains here, or holds what is unknown here, is named with the way out."""
    engine = make_engine(ranks, repository / "ds_configs/zero0.json")
    engine.save(tmp_path, "step_000000", {})
    engine.module.tuned = nn.Sequential(engine.module.tuned)
    with pytest.raises(UserError, match=r"2 trainable parameters are missing .*tuned\.0.*2 are unknown .*'tuned\."):
        engine.load(tmp_path, "step_000000")


def test_weights_of_another_size_are_refused(ranks: Ranks, repository: Path, tmp_path: Path) -> None:
    """The same names with other shapes are another model too."""
    engine = make_engine(ranks, repository / "ds_configs/zero0.json")
    engine.save(tmp_path, "step_000000", {})
    engine.module.tuned.weight = nn.Parameter(torch.zeros(2, 4))
    with pytest.raises(UserError, match=r"does not belong to this model: .*size mismatch for tuned\.weight"):
        engine.load(tmp_path, "step_000000")


def test_bf16_is_what_the_forward_computes_in(ranks: Ranks, repository: Path) -> None:
    """--precision bf16: the module's weights are bfloat16, roundings of those that an update moves."""
    engine = make_engine(ranks, repository / "ds_configs/zero2.json", precision="bf16")
    before = tuned(engine)
    update(engine, batches(2))
    after = tuned(engine)
    inside = dict(engine.module.named_parameters())
    assert {inside[name].dtype for name in after} == {torch.bfloat16}
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert all(torch.equal(inside[name], value.bfloat16()) for name, value in after.items())
    assert not torch.equal(before["tuned.weight"], after["tuned.weight"])
