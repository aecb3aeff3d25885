"""Saved models come back: onto a class whose modules have other names, and onto a base that is loaded from its record.

Shape suffixes: B batch, S rows, H heads, N values of a head, E width, D decisions.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from tests.models.tiny_families import TINY

POLICY = PolicyConfig(embedding_size=4, hidden_size=8)


class AddAndNorm(nn.Module):
    """norm(linear(x) + residual), the two side by side under names of their own."""

    def __init__(self, inputs: int, width: int, eps: float) -> None:
        super().__init__()
        self.mixes, self.levels = nn.Linear(inputs, width), nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        found: Tensor = self.levels(self.mixes(x) + residual)
        return found


class Floor(nn.Module):
    """A BERT layer, written anew with other names."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.asks, self.answers, self.tells = (nn.Linear(width, width) for _ in range(3))
        self.after_attention = AddAndNorm(width, width, eps)
        self.widens, self.after_widening = nn.Linear(width, inner), AddAndNorm(inner, width, eps)

    def forward(self, x_BSE: Tensor) -> Tensor:
        query, key, value = (
            part(x_BSE).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.asks, self.answers, self.tells)
        )
        attended_BHSN = nn.functional.scaled_dot_product_attention(query, key, value)
        x_BSE = self.after_attention(attended_BHSN.transpose(1, 2).flatten(2), x_BSE)
        found: Tensor = self.after_widening(nn.functional.gelu(self.widens(x_BSE)), x_BSE)
        return found


class Tower(BertModel):
    """A BERT whose encoder holds `floors` instead of `encoder.layer`; embeddings and pooler are BERT's."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Identity()
        self.floors = nn.ModuleList(Floor(config) for _ in range(config.num_hidden_layers))

    def forward(self, input_ids: Tensor, return_dict: bool = True) -> BaseModelOutputWithPooling:
        x_BSE = self.embeddings(input_ids=input_ids)
        for floor in self.floors:
            x_BSE = floor(x_BSE)
        return BaseModelOutputWithPooling(last_hidden_state=x_BSE, pooler_output=self.pooler(x_BSE))


RENAMED = {
    "encoder.layer": "floors",
    "attention.self.query": "asks",
    "attention.self.key": "answers",
    "attention.self.value": "tells",
    "attention.output.dense": "after_attention.mixes",
    "attention.output.LayerNorm": "after_attention.levels",
    "intermediate.dense": "widens",
    "output.dense": "after_widening.mixes",
    "output.LayerNorm": "after_widening.levels",
}


def renamed(bert: BertModel) -> Tower:
    """The same weights under the tower's names."""
    weights = {}
    for name, value in bert.state_dict().items():
        for old, new in RENAMED.items() if name.startswith("encoder.") else ():
            name = name.replace(old, new)
        weights[name] = value
    tower = Tower(bert.config).eval()
    tower.load_state_dict(weights)
    return tower


def adapt(base: nn.Module, strategy: str = "spottune", rank: int | None = None) -> AdaptiveModel:
    """An adapted copy of `base`, in evaluation mode, that has learned something in every delta."""
    model = get_adaptive_model(copy.deepcopy(base), AdaptiveConfig(strategy, policy=POLICY, delta_rank=rank)).eval()
    with torch.no_grad():
        for _, delta in model.parameter_groups().get("delta", []):
            delta.normal_(std=0.2)
    return model


def pooled(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs, **options).pooler_output
    return found


@pytest.mark.parametrize("rank", [None, 2], ids=["full", "low_rank"])
def test_a_file_outlives_a_renaming_of_the_modules(rank: int | None, tmp_path: Path) -> None:
    """Saved from BERT, loaded onto the tower and back: same decisions, same output, same hash of the frozen half."""
    base = TINY["bert"].build()
    tower, inputs = renamed(base), {"input_ids": TINY["bert"].inputs(4)["input_ids"]}
    torch.testing.assert_close(pooled(tower, inputs), pooled(base, inputs), rtol=0, atol=1e-5)
    model = adapt(base, rank=rank)
    gates_BD = torch.randint(0, 2, (4, len(model.decisions)))
    model.save_pretrained(tmp_path / "bert")
    loaded = AdaptiveModel.from_pretrained(tower, tmp_path / "bert")
    assert any(".floors.0.asks.delta_" in name for name in loaded.state_dict()), "it is the tower that was loaded"
    assert (loaded.frozen_hash(), loaded.decisions) == (model.frozen_hash(), model.decisions)
    for policy in (None, gates_BD):
        expected = pooled(model, inputs, policy=policy)
        torch.testing.assert_close(pooled(loaded, inputs, policy=policy), expected, rtol=0, atol=1e-5)
    loaded.save_pretrained(tmp_path / "tower")
    back = AdaptiveModel.from_pretrained(copy.deepcopy(base), tmp_path / "tower")
    assert torch.equal(pooled(back, inputs, policy=gates_BD), pooled(model, inputs, policy=gates_BD))


def test_another_value_in_the_renamed_class_is_another_base(tmp_path: Path) -> None:
    base = TINY["bert"].build()
    adapt(base).save_pretrained(tmp_path)
    tower = renamed(base)
    with torch.no_grad():
        tower.floors[1].tells.bias[0] += 1
    with pytest.raises(UserError, match="the base model differs"):
        AdaptiveModel.from_pretrained(tower, tmp_path)


def test_weights_inside_the_layers_are_saved_by_ids_only(tmp_path: Path) -> None:
    """No name of a module between the layers' ids; LayerScale has no leaf and goes by a number where it is saved."""
    for family, strategy in (("bert", "spottune"), ("dinov2", "blockdrop")):
        model = get_adaptive_model(TINY[family].build(), AdaptiveConfig(strategy, policy=POLICY))
        model.save_pretrained(tmp_path / family)
        with safe_open(tmp_path / family / "adaptive_model.safetensors", "pt") as file:
            inside = {name for name in file.keys() if any(word.isdigit() for word in name.split("."))}  # noqa: SIM118
        outside = {name for name in inside if name.startswith("base.")}
        assert not outside, family
        assert "layer.0.attention.query." in " ".join(inside)
    assert {"layer.2.ungated.0", "layer.2.ungated.1"} <= inside


def test_the_global_decision_is_saved_with_the_model(tmp_path: Path) -> None:
    base, inputs = TINY["bert"].build(), TINY["bert"].inputs(3)
    model = adapt(base)
    model.save_pretrained(tmp_path / "before")
    assert AdaptiveModel.from_pretrained(copy.deepcopy(base), tmp_path / "before").global_decisions is None
    model.global_decisions = torch.arange(len(model.decisions)) % 2
    model.save_pretrained(tmp_path / "after")
    loaded = AdaptiveModel.from_pretrained(copy.deepcopy(base), tmp_path / "after")
    assert loaded.global_decisions is not None
    assert loaded.global_decisions.tolist() == [decision % 2 == 1 for decision in range(len(model.decisions))]
    assert torch.equal(pooled(loaded, inputs, policy="global"), pooled(model, inputs, policy="global"))


@pytest.mark.parametrize("decided", [[], [1], [1] * 100])
def test_a_global_decision_of_another_length_is_told_with_its_file(decided: list[int], tmp_path: Path) -> None:
    base = TINY["bert"].build()
    adapt(base).save_pretrained(tmp_path)
    file = tmp_path / "adaptive_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "global_decisions": decided}))
    told = rf"'{file}': 'global_decisions' has {len(decided)} entries, 'decisions' has \d+: take the file as"
    with pytest.raises(UserError, match=told):
        AdaptiveModel.from_pretrained(copy.deepcopy(base), tmp_path)
