"""The adapted model's own interface: outputs, forced decisions, groups, counts, saving, merging."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LxmertConfig, LxmertForQuestionAnswering, LxmertModel
from transformers.models.lxmert.modeling_lxmert import LxmertModelOutput

from adaptive_ft import AdaptiveConfig, AdaptiveModel, get_adaptive_model
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig

SMALL_POLICY = PolicyConfig(embedding_size=8, hidden_size=16)


@pytest.fixture
def base() -> LxmertForQuestionAnswering:
    return LxmertForQuestionAnswering(
        LxmertConfig(
            vocab_size=40,
            hidden_size=32,
            num_attention_heads=4,
            intermediate_size=48,
            l_layers=2,
            r_layers=1,
            x_layers=2,
            visual_feat_dim=16,
            max_position_embeddings=12,
            num_qa_labels=7,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(1, 40, (8, 5)),
        "visual_feats": torch.randn(8, 3, 16),
        "visual_pos": torch.rand(8, 3, 4),
    }


def adapt(base: Any, strategy: str = "spottune_block", **options: Any) -> Any:
    """An adapted copy of `base` in evaluation mode whose deltas have values."""
    model = get_adaptive_model(copy.deepcopy(base), AdaptiveConfig(strategy, policy=SMALL_POLICY, **options)).eval()
    with torch.no_grad():
        for _, delta in model.parameter_groups().get("delta", []):
            delta.normal_(std=0.2)
    return model


def score(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs, **options).question_answering_score


def test_a_plain_backbone_adapts_too(base: Any, inputs: dict[str, Tensor]) -> None:
    backbone: LxmertModel = base.lxmert
    expected = backbone(**inputs).pooled_output
    model = get_adaptive_model(backbone, AdaptiveConfig(policy=SMALL_POLICY))
    output = model(**inputs, policy="frozen")
    assert isinstance(output, LxmertModelOutput)
    assert torch.equal(output.pooled_output, expected)
    assert "head" not in model.parameter_groups()


def test_the_output_carries_gates_and_logits(base: Any, inputs: dict[str, Tensor]) -> None:
    model = adapt(base)
    output = model(**inputs, return_dict=False)
    assert output.gates.shape == (8, 5)
    assert output["policy_logits"].shape == (8, 5, 2)
    assert torch.equal(output.gates, (output.policy_logits[..., 1] > output.policy_logits[..., 0]).float())
    assert model(**inputs, policy="tuned").policy_logits is None
    assert adapt(base, "standard")(**inputs).gates.shape == (8, 0)


def test_training_samples_and_trains_the_policy(base: Any, inputs: dict[str, Tensor]) -> None:
    model = adapt(base).train()
    first, second = model(**inputs), model(**inputs)
    assert set(first.gates.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first.gates, second.gates)
    second.question_answering_score.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.policy.head.parameters())


def test_evaluation_is_deterministic_unless_asked_to_sample(base: Any, inputs: dict[str, Tensor]) -> None:
    model, sampling = adapt(base), adapt(base, eval_decisions="sample")
    assert torch.equal(model(**inputs).gates, model(**inputs).gates)
    assert not torch.equal(sampling(**inputs).gates, sampling(**inputs).gates)


def test_forced_decisions_leave_the_constants_alone(base: Any, inputs: dict[str, Tensor]) -> None:
    model = adapt(base, "last_2")
    forced = score(model, inputs, policy=torch.zeros(8, 0))
    assert torch.equal(forced, score(model, inputs, policy="tuned"))
    assert not torch.equal(forced, score(model, inputs, policy="frozen"))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("frosen", "policy 'frosen' is unknown"),
        (torch.zeros(8, 4), r"shape \[8, 4\]; inputs and strategy need \[8, 5\]"),
        (torch.zeros(7, 5), r"shape \[7, 5\]"),
        (torch.full((8, 5), 0.5), "must be 0"),
    ],
)
def test_other_policies_are_refused(base: Any, inputs: dict[str, Tensor], policy: Tensor | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(base)(**inputs, policy=policy)


def test_inputs_of_different_batch_sizes_are_refused(base: Any, inputs: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"'input_ids': 8, 'visual_feats': 8, 'visual_pos': 4"):
        adapt(base)(**{**inputs, "visual_pos": inputs["visual_pos"][:4]})


def test_adapting_twice_is_refused(base: Any) -> None:
    with pytest.raises(UserError, match="adapted already"):
        get_adaptive_model(adapt(base), AdaptiveConfig())


def test_recomputed_activations_see_the_same_gates(base: Any, inputs: dict[str, Tensor]) -> None:
    plain = adapt(base).train()
    recomputing = copy.deepcopy(plain)
    for layer in recomputing.base.lxmert.encoder.layer:
        layer.forward = lambda *args, run=layer.forward, **named: checkpoint(run, *args, use_reentrant=False, **named)
    for model in (plain, recomputing):
        torch.manual_seed(3)
        model(**inputs).question_answering_score.square().sum().backward()
    for (name, expected), found in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (expected.grad is None) == (found.grad is None), name
        assert expected.grad is None or torch.equal(expected.grad, found.grad), name


def test_groups_name_every_trainable_parameter_once(base: Any) -> None:
    groups = adapt(base).parameter_groups()
    assert list(groups) == ["delta", "other", "head", "policy"]
    assert all(name.endswith(("delta_weight", "delta_bias")) for name, _ in groups["delta"])
    assert all(name.startswith("base.answer_head.") for name, _ in groups["head"])
    assert {name.split(".")[2] for name, _ in groups["other"]} == {"embeddings", "encoder", "pooler"}
    assert all("visn_fc" in name for name, _ in groups["other"] if ".encoder." in name)
    assert "delta" not in adapt(base, "pretrained_frozen").parameter_groups()


def test_what_lies_outside_the_layers_trains_even_if_it_was_frozen(base: Any) -> None:
    names = [name for name, _ in adapt(base).parameter_groups()["other"]]
    assert [name for name, _ in adapt(base.requires_grad_(False)).parameter_groups()["other"]] == names


def test_counts_at_base_size_are_those_of_the_original() -> None:
    with torch.device("meta"):
        base = LxmertForQuestionAnswering(LxmertConfig(num_qa_labels=3129))
    counts = get_adaptive_model(base, AdaptiveConfig(policy=PolicyConfig("mirror"))).count_parameters()
    assert counts["delta"] == counts["frozen"] == pytest.approx(181.9e6, abs=0.05e6)
    assert counts["delta"] + counts["other"] + counts["head"] == pytest.approx(213.9e6, abs=0.05e6)
    assert counts["policy"] == pytest.approx(66.3e6, abs=0.05e6)
    assert counts["trainable"] == sum(counts[group] for group in ("delta", "other", "head", "policy"))


def test_the_report_prints_the_counts(base: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = adapt(base)
    model.print_trainable_parameters()
    counts, printed = model.count_parameters(), capsys.readouterr().out
    assert f"trainable params: {counts['trainable']:,} || all params: " in printed
    assert f"policy: {counts['policy']:,}" in printed


def test_the_counts_are_the_same_when_an_engine_has_split_the_weights(
    base: Any, ranks: Ranks, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under ZeRO-3 every weight is empty outside its layer's forward."""
    monkeypatch.setattr(nn.functional, "linear", nn.functional.linear)  # ZeRO-3 puts its own in this place
    model, source = adapt(base), repository / "ds_configs/zero3.json"
    model.print_trainable_parameters()
    expected = capsys.readouterr().out
    filled = fill_ds_config(read_ds_config(source), EngineNumbers(1, 1, 1, 1.0, "fp32"), source)
    Engine(model, model.parameter_groups(), OptimConfig(), filled, ranks, total_updates=1)
    assert sum(value.numel() for value in model.parameters()) == 0
    capsys.readouterr()
    model.print_trainable_parameters()
    assert capsys.readouterr().out == expected


def test_another_base_is_refused_and_left_alone(base: Any, tmp_path: Path) -> None:
    adapt(base).save_pretrained(tmp_path)
    other = copy.deepcopy(base)
    nn.init.normal_(other.lxmert.encoder.r_layers[0].output.LayerNorm.bias)
    names = list(other.state_dict())
    with pytest.raises(UserError, match="the base model differs"):
        AdaptiveModel.from_pretrained(other, tmp_path)
    assert list(other.state_dict()) == names
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_saved_decisions_must_be_those_of_the_strategy(base: Any, tmp_path: Path) -> None:
    adapt(base).save_pretrained(tmp_path)
    file = tmp_path / "adaptive_config.json"
    saved = json.loads(file.read_text())
    saved["decisions"].reverse()
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="the decisions saved"):
        AdaptiveModel.from_pretrained(base, tmp_path)


def test_a_head_for_other_answers_is_refused(base: Any, tmp_path: Path) -> None:
    adapt(base).save_pretrained(tmp_path)
    base.resize_num_qa_labels(9)
    with pytest.raises(UserError, match=r"answer_head\.logit_fc\.3\.\w+' has shape \[7.*needs \[9"):
        AdaptiveModel.from_pretrained(base, tmp_path)


def test_a_gathered_state_can_be_saved(base: Any, tmp_path: Path) -> None:
    model = adapt(base)
    gathered = {name: value + 1 for name, value in model.adaptive_state_dict().items()}
    model.save_pretrained(tmp_path, gathered)
    loaded = AdaptiveModel.from_pretrained(base, tmp_path)
    assert not loaded.training
    assert all(torch.equal(value, gathered[name]) for name, value in loaded.adaptive_state_dict().items())


def test_saved_weights_must_fit_exactly(base: Any, tmp_path: Path) -> None:
    model = adapt(base)
    state = model.adaptive_state_dict()
    state["base.extra"] = state.pop("base.lxmert.pooler.dense.bias")
    model.save_pretrained(tmp_path, state)
    with pytest.raises(UserError, match=r"1 missing \['base.lxmert.pooler.*1 unexpected \['base.extra'"):
        AdaptiveModel.from_pretrained(base, tmp_path)


def test_weights_of_another_save_are_refused(base: Any, tmp_path: Path) -> None:
    adapt(base).save_pretrained(tmp_path)
    file = tmp_path / "adaptive_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match="do not belong to the same save"):
        AdaptiveModel.from_pretrained(base, tmp_path)


def test_without_weights_there_is_nothing_to_save(tmp_path: Path) -> None:
    with torch.device("meta"):
        base = LxmertModel(LxmertConfig(l_layers=1, r_layers=1, x_layers=1))
    with pytest.raises(ValueError, match="meta device"):
        get_adaptive_model(base, AdaptiveConfig()).save_pretrained(tmp_path)


@pytest.mark.parametrize("strategy", ["standard", "last_2", "pretrained_frozen"])
def test_merging_a_constant_strategy(base: Any, inputs: dict[str, Tensor], strategy: str) -> None:
    model = adapt(base, strategy)
    expected = score(model, inputs)
    merged = model.merge_and_unload()
    assert_plain(merged, base)
    torch.testing.assert_close(score(merged, inputs), expected)


def test_merging_chosen_decisions(base: Any, inputs: dict[str, Tensor]) -> None:
    model = adapt(base, "spottune")
    decisions = torch.randint(0, 2, (len(model.decisions),))
    expected = score(model, inputs, policy=decisions.expand(8, -1))
    merged = model.merge_and_unload(decisions)
    assert_plain(merged, base)
    torch.testing.assert_close(score(merged, inputs), expected)


def test_merging_a_policy_needs_decisions(base: Any) -> None:
    with pytest.raises(UserError, match=r"decides per input.*a tensor of 5 zeros and ones"):
        adapt(base).merge_and_unload()
    with pytest.raises(ValueError, match=r"shape \[4\]"):
        adapt(base).merge_and_unload(torch.zeros(4))


def test_unload_gives_the_pretrained_model_back(base: Any, inputs: dict[str, Tensor]) -> None:
    unloaded = adapt(base).unload()
    assert_plain(unloaded, base)
    assert torch.equal(score(unloaded, inputs), score(base, inputs))


def assert_plain(model: nn.Module, base: Any) -> None:
    """The modules, names and trainable parameters of the base."""
    assert [type(module) for module in model.modules()] == [type(module) for module in base.modules()]
    assert model.state_dict().keys() == base.state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
