"""Policy networks: shapes, where gates start, masks, cost, and independence from the base model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LxmertConfig, LxmertModel

from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig, build_policy

KINDS = ("light", "mirror")


@pytest.fixture
def backbone() -> LxmertModel:
    return LxmertModel(
        LxmertConfig(
            vocab_size=40,
            hidden_size=32,
            num_attention_heads=4,
            intermediate_size=48,
            l_layers=3,
            r_layers=1,
            x_layers=2,
            visual_feat_dim=16,
            max_position_embeddings=12,
        )
    ).eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(1, 40, (5, 6)),
        "attention_mask": torch.ones(5, 6),
        "visual_feats": torch.randn(5, 3, 16),
        "visual_pos": torch.rand(5, 3, 4),
        "visual_attention_mask": torch.ones(5, 3),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_gates_start_near_the_initial_probability(
    backbone: LxmertModel, inputs: dict[str, Tensor], kind: Any, probability: float
) -> None:
    policy: Any = build_policy(PolicyConfig(kind=kind, initial_tuned_probability=probability), backbone, 7).eval()
    logits_BD2 = policy(**inputs)
    assert logits_BD2.shape == (5, 7, 2)
    tuned_BD = logits_BD2.softmax(dim=-1)[..., 1]
    assert (tuned_BD - probability).abs().max() < 0.15
    assert tuned_BD.std(dim=0).min() > 0, "every decision must depend on the input from the start"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_matter(backbone: LxmertModel, inputs: dict[str, Tensor], kind: Any) -> None:
    policy: Any = build_policy(PolicyConfig(kind=kind), backbone, 7).eval()
    padded = dict(inputs)
    padded["input_ids"] = torch.cat([inputs["input_ids"], torch.full((5, 2), 9)], dim=1)
    padded["attention_mask"] = torch.cat([torch.ones(5, 6), torch.zeros(5, 2)], dim=1)
    padded["visual_feats"] = torch.cat([inputs["visual_feats"], torch.full((5, 1, 16), 50.0)], dim=1)
    padded["visual_pos"] = torch.cat([inputs["visual_pos"], torch.ones(5, 1, 4)], dim=1)
    padded["visual_attention_mask"] = torch.cat([torch.ones(5, 3), torch.zeros(5, 1)], dim=1)
    torch.testing.assert_close(policy(**padded), policy(**inputs), rtol=1e-5, atol=1e-6)


def test_light_policy_without_masks_sees_everything(backbone: LxmertModel, inputs: dict[str, Tensor]) -> None:
    policy: Any = build_policy(PolicyConfig(), backbone, 7)
    bare = {name: value for name, value in inputs.items() if "mask" not in name}
    assert torch.equal(policy(**bare), policy(**inputs))


def test_light_policy_stays_finite_without_any_region(backbone: LxmertModel, inputs: dict[str, Tensor]) -> None:
    policy: Any = build_policy(PolicyConfig(), backbone, 7)
    logits_BD2 = policy(**{**inputs, "visual_attention_mask": torch.zeros(5, 3)})
    assert logits_BD2.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_the_head_learns_from_the_first_step(
    backbone: LxmertModel, inputs: dict[str, Tensor], kind: Any
) -> None:
    policy: Any = build_policy(PolicyConfig(kind=kind), backbone, 7)
    policy(**inputs)[..., 1].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.head.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_mirror_starts_from_the_base_and_shares_nothing(backbone: LxmertModel, inputs: dict[str, Tensor]) -> None:
    nn.init.normal_(backbone.embeddings.token_type_embeddings.weight)
    policy: Any = build_policy(PolicyConfig(kind="mirror"), backbone, 7).eval()
    base, mirror = dict(backbone.named_parameters()), dict(policy.backbone.named_parameters())
    assert {name.split(".")[2] for name in mirror if name.startswith("encoder.layer.")} == {"0", "1"}
    assert mirror.keys() < base.keys()
    assert all(torch.equal(mirror[name], base[name]) for name in mirror)
    assert all(mirror[name].data_ptr() != base[name].data_ptr() for name in mirror)
    before = policy(**inputs)
    nn.init.zeros_(backbone.embeddings.word_embeddings.weight)
    assert torch.equal(policy(**inputs), before)


def test_mirror_without_init_from_base_is_random(backbone: LxmertModel) -> None:
    policy: Any = build_policy(PolicyConfig(kind="mirror", init_from_base=False), backbone, 7)
    word = "embeddings.word_embeddings.weight"
    assert not torch.equal(policy.backbone.state_dict()[word], backbone.state_dict()[word])


@pytest.mark.parametrize("kind", KINDS)
def test_policy_follows_the_dtype_of_the_backbone(backbone: LxmertModel, inputs: dict[str, Tensor], kind: Any) -> None:
    policy: Any = build_policy(PolicyConfig(kind=kind), backbone.to(torch.float64), 7)
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    assert policy(**doubled).dtype == torch.float64


def test_light_policy_costs_under_one_percent_at_base_size() -> None:
    with torch.device("meta"):
        backbone = LxmertModel(LxmertConfig())
        inputs = {
            "input_ids": torch.zeros(1, 20, dtype=torch.long),
            "attention_mask": torch.ones(1, 20),
            "visual_feats": torch.zeros(1, 36, 2048),
            "visual_pos": torch.zeros(1, 36, 4),
        }
    light = build_policy(PolicyConfig(), backbone, 425)
    assert _flops(light, inputs) < 0.01 * _flops(backbone, inputs)


def _flops(module: nn.Module, inputs: dict[str, Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        module(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("options", [{"kind": "heavy"}, {"initial_tuned_probability": 1.0}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        PolicyConfig(**options)
