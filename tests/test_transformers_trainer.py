"""An adapted model in the hands of transformers' own Trainer and of torch's wrapper for ranks, as docs/api.md tells it.

Mirrors no single module: adapt holds what the Trainer looks for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, ViTForImageClassification

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.losses import PolicyLossConfig, policy_losses
from tests.models.tiny_families import LXMERT, TINY

RANK = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.models.tiny_families import TINY
from tests.test_transformers_trainer import FrugalTrainer, adapted, trained, trainer

dist.init_process_group("gloo")
found = {}
for strategy in ("spottune", "blockdrop", "standard"):
    model = adapted(strategy)
    wrapped = DistributedDataParallel(model, find_unused_parameters=strategy == "spottune")
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    torch.manual_seed(dist.get_rank())
    for _ in range(2):
        output = wrapped(**TINY["vit"].inputs(4), labels=torch.tensor([0, 1, 2, 0]))
        (output.loss + output.gates.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    found[strategy] = trained(model)
model = adapted()
trainer(model, sys.argv[1], FrugalTrainer, max_steps=2, gradient_accumulation_steps=2).train()
found["Trainer"] = trained(model)
torch.save(found, f"{sys.argv[1]}/{dist.get_rank()}.pt")
"""
NONE_TUNED = PolicyLossConfig(budget_scale=100.0, budget=0.0)


class FrugalTrainer(Trainer):
    """The page's Trainer, with a loss on every tuned component."""

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        output = model(**inputs)
        num_live = self.accelerator.unwrap_model(model).tying.num_live
        loss = output.loss + sum(policy_losses(output.gates, NONE_TUNED, num_live).values())
        return (loss, output) if return_outputs else loss


def examples(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": number % 3} for number in range(count)
    ]


def adapted(strategy: str = "spottune") -> AdaptiveModel:
    """With all gate gradients: the samples of a share are drawn by numbers that the Trainer does not keep."""
    torch.manual_seed(0)
    config = TINY["vit"].config()
    config.num_labels = 3
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    options = AdaptiveConfig(strategy, policy=policy, gate_grad_fraction=1)
    return get_adaptive_model(ViTForImageClassification(config), options)


def trainer(model: nn.Module, folder: Path, kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    usual = {
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
    }
    arguments = TrainingArguments(str(folder), **{**usual, **options})
    return kind(model, arguments, train_dataset=examples(12), eval_dataset=examples(6))


def trained(model: AdaptiveModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def test_it_trains_what_is_to_train_and_nothing_else(tmp_path: Path) -> None:
    """Every group moves, the policy too; the frozen half does not."""
    model = adapted()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer(model, tmp_path, max_steps=3, learning_rate=1e-2).train()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == trained(model).keys()
    assert model.parameter_groups().keys() == {"delta", "other", "head", "policy"}


def test_the_policy_loss_reaches_the_policy(tmp_path: Path) -> None:
    """With a dear price on tuned components almost none is tuned in the end; without it, no such thing."""
    shares = []
    for kind in (FrugalTrainer, Trainer):
        model = adapted()
        trainer(model, tmp_path, kind, max_steps=30, learning_rate=4e-2).train()
        model.enable_policy_logging()
        model.train()
        with torch.no_grad():
            for _ in range(20):
                model(**TINY["vit"].inputs(8))
        shares.append(torch.cat(model.get_policy_log()).mean().item())
    assert shares[0] < 0.1 < 0.3 < shares[1]


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """The Trainer divides the mean losses of the micro-batches by their number, as ours are means."""
    whole, cut = adapted("standard"), adapted("standard")
    plain = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    trainer(whole, tmp_path, FrugalTrainer, **plain).train()
    trainer(
        cut, tmp_path, FrugalTrainer, **plain | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    ).train()
    before, expected, found = trained(adapted("standard")), trained(whole), trained(cut)
    assert max((expected[name] - before[name]).abs().max() for name in before) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_a_base_that_knows_nothing_of_the_trainer_is_given_its_own_inputs_alone() -> None:
    """Else a model that takes any keyword would be handed the number of items in the batch."""
    model = get_adaptive_model(LXMERT.build(), AdaptiveConfig("standard"))
    assert not Trainer(model, TrainingArguments(report_to=[], use_cpu=True)).model_accepts_loss_kwargs


def test_evaluation_predicts_logits(tmp_path: Path) -> None:
    """The gates are left out of the predictions where they are named."""
    model = adapted()
    judged = trainer(model, tmp_path)
    found = judged.predict(examples(6), ignore_keys=["gates", "policy_logits"])
    with torch.no_grad():
        pictures = torch.stack([example["pixel_values"] for example in examples(6)])
        expected = model.eval()(pixel_values=pictures).logits
    torch.testing.assert_close(torch.from_numpy(found.predictions), expected, rtol=0, atol=1e-6)
    assert found.metrics["test_loss"] > 0


def test_it_resumes_from_its_own_checkpoints(tmp_path: Path) -> None:
    """Two updates, and two more by another process's Trainer: those of four at once."""
    options = {"max_steps": 4, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    through, resumed = adapted(), adapted()
    trainer(through, tmp_path, **options).train()
    trainer(resumed, tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    found = trained(resumed)
    for name, value in trained(through).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


def test_the_trainer_may_ask_for_checkpointed_activations(tmp_path: Path) -> None:
    """Its own option: every layer runs twice a step, and the weights are those of a run without."""
    plain, recomputed = adapted(), adapted()
    runs: list[int] = []
    inner = next(module for name, module in recomputed.base.named_modules() if name.endswith("layernorm_before"))
    inner.register_forward_hook(lambda *_: runs.append(1))
    trainer(plain, tmp_path, max_steps=1, learning_rate=1e-2).train()
    trainer(recomputed, tmp_path, max_steps=1, learning_rate=1e-2, gradient_checkpointing=True).train()
    assert len(runs) == 2
    found = trained(recomputed)
    for name, value in trained(plain).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.launch
def test_ranks_with_pictures_of_their_own_keep_the_same_weights(tmp_path: Path, two_ranks: Callable[..., None]) -> None:
    """In one's own loop and under the Trainer, whose wrapper takes every output apart; every rank's weights move."""
    two_ranks(RANK, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first.keys() == {"spottune", "blockdrop", "standard", "Trainer"}
    for case, weights in first.items():
        before = trained(adapted("spottune" if case == "Trainer" else case))
        assert weights.keys() == before.keys()
        for name, value in weights.items():
            assert torch.equal(value, second[case][name]), (case, name)
            assert not torch.equal(value, before[name]), (case, name)
