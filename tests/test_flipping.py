"""Decisions flipped one at a time: true changes are those of single examples, predictions become exact for small
deltas, and neither depends on how many examples stand in a batch.
"""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.analysis.flips import Flips, agreement
from adaptive_ft.data.reading.choice import open_set
from adaptive_ft.flipping import FlipPlan, decided, flip_decisions, flipped
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.classification import ClassificationTask


def classifier(spread: float, **options: Any) -> tuple[AdaptiveModel, ClassificationTask, TaskBatch]:
    """A small ViT whose deltas (blockdrop has none) have this spread, with four pictures, the last of which only fills
    up the batch.
    """
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16}
    base = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3))
    model = get_adaptive_model(base, AdaptiveConfig(**options)).eval()
    for _, delta in model.parameter_groups().get("delta", []):
        torch.nn.init.normal_(delta, std=spread)
    targets_BA = torch.eye(3)[[0, 1, 2, 0]]
    batch = TaskBatch({"pixel_values": torch.randn(4, 3, 16, 16)}, targets_BA, [], torch.tensor([True] * 3 + [False]))
    return model, ClassificationTask(["a", "b", "c"]), batch


@pytest.mark.parametrize(
    "options",
    [{}, {"gate_grad_fraction": 0.25}, {"delta_rank": 2}, {"strategy": "spottune_res"}, {"strategy": "blockdrop"}],
    ids=str,
)
def test_a_small_step_is_predicted(options: dict[str, Any]) -> None:
    """Also of a run that evaluated only some gate gradients, as those are all asked for."""
    model, task, batch = classifier(0.002, **options)
    gates_BD = torch.randint(0, 2, (4, len(model.decisions))).float()
    calls: list[None] = []
    found = flipped(model, task, batch, gates_BD, lambda: calls.append(None))
    change_BL = found["change_ND"]
    assert len(calls) == change_BL.shape[1] == len(model.decisions)
    predicted_BL = (1 - 2 * found["gates_ND"]) * found["gradient_ND"]
    held = agreement(*(part_BL[:3].double().numpy() for part_BL in (predicted_BL, change_BL)))
    assert held.pearson is not None
    assert held.pearson > 0.98
    assert not change_BL[3].any(), "a row that fills up the batch has no loss"
    expected_B = torch.nn.functional.cross_entropy(
        task.logits(model(**batch.inputs, policy=gates_BD)), batch.targets_BA, reduction="none"
    )
    torch.testing.assert_close(found["losses_N"][:3], expected_B[:3])


def test_drawn_gates_are_whole_and_differ() -> None:
    model, _, batch = classifier(0.02)
    drawn = [decided(model, batch, "sample") for _ in range(2)]
    assert all(set(gates.unique().tolist()) == {0.0, 1.0} for gates in drawn)
    assert not torch.equal(*drawn)
    assert torch.equal(decided(model, batch, "argmax"), decided(model, batch, "argmax"))


def test_a_run_of_one_decision_for_all_is_flipped_from_it() -> None:
    """What its evaluation goes by; drawn gates are the network's."""
    model, _, batch = classifier(0.02, eval_decisions="global")
    decision_D = torch.arange(len(model.decisions)) % 2 == 0
    model.global_decisions = decision_D
    assert torch.equal(decided(model, batch, "argmax"), decision_D.float().expand(4, -1))
    assert not torch.equal(decided(model, batch, "sample"), decision_D.float().expand(4, -1))


def of_run(run: RunFolder, rows: int) -> Flips:
    restored = restore(run.path, "latest")
    shards = restored.subject.fit(open_set(restored.config.data.val, restored.config.data), restored.model.base)
    return flip_decisions(restored, shards, FlipPlan(5, rows), lambda: None)


def test_a_run_of_questions_is_flipped_alike_in_any_batch(finished_run: RunFolder) -> None:
    """Each example's loss is its own: the others in its batch change nothing, nor does the order of the shards."""
    together, alone = of_run(finished_run, 5), of_run(finished_run, 1)
    assert together.question_ids == alone.question_ids
    assert set(together.kinds) == {"layer"}
    assert together.names == restore(finished_run.path, "latest").model.decisions
    np.testing.assert_array_equal(together.gates_ND, alone.gates_ND)
    np.testing.assert_allclose(together.losses_N, alone.losses_N, rtol=1e-5)
    np.testing.assert_allclose(together.gradient_ND, alone.gradient_ND, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(together.change_ND, alone.change_ND, rtol=1e-3, atol=1e-5)
    assert np.abs(together.change_ND).max() > 1e-4
