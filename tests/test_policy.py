"""Policy networks: shapes, where gates start, masks, cost, and independence from the base model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, LxmertConfig, LxmertModel, ViTConfig, ViTModel

from adaptive_ft.errors import UserError
from adaptive_ft.policy import SIZES, PolicyConfig, build_policy
from tests.models.tiny_families import LXMERT, TINY, Family

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


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: LxmertModel(LxmertConfig()), ("input_ids", "attention_mask", "visual_feats", "visual_pos")),
        (lambda: BertModel(BertConfig()), ("input_ids",)),
        (lambda: ViTModel(ViTConfig()), ("pixel_values",)),
    ],
    ids=["lxmert", "bert", "vit"],
)
def test_light_policy_costs_under_one_percent_at_base_size(
    make: Callable[[], nn.Module], names: tuple[str, ...]
) -> None:
    with torch.device("meta"):
        backbone = make()
        every = {
            "input_ids": torch.zeros(1, 20, dtype=torch.long),
            "attention_mask": torch.ones(1, 20),
            "visual_feats": torch.zeros(1, 36, 2048),
            "visual_pos": torch.zeros(1, 36, 4),
            "pixel_values": torch.zeros(1, 3, 224, 224),
        }
    inputs = {name: every[name] for name in names}
    light = build_policy(PolicyConfig(), backbone, 425)
    assert 0 < _flops(light, inputs) < 0.01 * _flops(backbone, inputs)


def _flops(module: nn.Module, inputs: dict[str, Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        module(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["learned", "fixed"])
@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_policies_that_do_not_look_say_the_same_of_every_sample(
    backbone: LxmertModel, inputs: dict[str, Tensor], kind: Any, probability: float
) -> None:
    policy: Any = build_policy(PolicyConfig(kind=kind, initial_tuned_probability=probability), backbone.double(), 7)
    logits_BD2 = policy(**inputs)
    assert logits_BD2.dtype == torch.float64
    torch.testing.assert_close(logits_BD2.softmax(dim=-1)[..., 1], torch.full((5, 7), probability).double())
    assert policy.input_names == build_policy(PolicyConfig(), backbone, 7).input_names


def test_learned_logits_train_and_fixed_ones_are_no_weights(backbone: LxmertModel, inputs: dict[str, Tensor]) -> None:
    learned: Any = build_policy(PolicyConfig(kind="learned"), backbone, 7)
    assert size_of(learned) == 7 * 2
    learned(**inputs)[:, 3, 1].sum().backward()
    assert learned.logits.grad.nonzero().tolist() == [[3, 1]], "every decision has logits of its own"
    assert learned.logits.grad[3, 1] == 5, "every sample teaches them"
    fixed: Any = build_policy(PolicyConfig(kind="fixed"), backbone, 7)
    assert size_of(fixed) == 0
    assert not fixed.state_dict()


@pytest.mark.parametrize("options", [{"kind": "heavy"}, {"initial_tuned_probability": 1.0}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        PolicyConfig(**options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*TINY.values(), LXMERT], ids=[*TINY, "lxmert"])
def test_every_family_is_decided_by_all_its_inputs(family: Family, kind: Any) -> None:
    """Logits of one sample follow its own inputs, each of them, and no other sample's."""
    policy: Any = build_policy(PolicyConfig(kind=kind, layers=1), family.build(), 7).eval()
    inputs = family.inputs(3)
    before = policy(**inputs)
    assert before.shape == (3, 7, 2)
    looked_at = [name for name in inputs if "mask" not in name]
    assert looked_at
    for name in looked_at:
        other = {**inputs, name: inputs[name].clone()}
        if name == "input_ids":
            other[name][0, 0] = other[name][0, 0] % 20 + 5
        else:
            other[name][0] = other[name][0] * 0.5 + 0.1
        after = policy(**other)
        assert (after[0] - before[0]).abs().max() > 1e-5, name
        torch.testing.assert_close(after[1:], before[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "visual_bert", "vl_bert"])
def test_padding_does_not_matter_to_other_families(name: str, kind: Any) -> None:
    family = TINY[name]
    policy: Any = build_policy(PolicyConfig(kind=kind), family.build(), 7).eval()
    inputs = family.inputs(4)
    before = policy(**inputs)
    inputs["input_ids"][1::2, 3:] = 7
    for regions in {"visual_embeds", "visual_feats", "visual_pos"} & inputs.keys():
        inputs[regions][::2, 2:] = 50.0
    torch.testing.assert_close(policy(**inputs), before, rtol=1e-5, atol=1e-5)


def test_light_policy_says_which_input_is_missing() -> None:
    policy: Any = build_policy(PolicyConfig(), TINY["visual_bert"].build(), 7)
    with pytest.raises(ValueError, match="visual_embeds is missing"):
        policy(**TINY["bert"].inputs(2))


def test_light_policy_refuses_inputs_it_does_not_know() -> None:
    class Speech(BertModel):
        def forward(self, input_values: Tensor) -> Tensor:
            return input_values

    with pytest.raises(UserError, match=r"cannot look at a Speech: .*takes input_values\. Choose policy 'mirror'"):
        build_policy(PolicyConfig(), Speech(TINY["bert"].config()), 7)


@pytest.mark.parametrize("family", TINY.values(), ids=TINY)
def test_mirror_is_a_shrunk_backbone_of_the_same_class(family: Family) -> None:
    base = family.build()
    policy: Any = build_policy(PolicyConfig(kind="mirror", layers=2, intermediate_size=12), base, 7)
    mirror = policy.backbone
    assert type(mirror) is type(base)
    assert mirror.config.num_hidden_layers == 2
    assert base.config.num_hidden_layers == 3, "the base's own configuration stays"
    weights, copies = dict(base.named_parameters()), dict(mirror.named_parameters())
    narrowed = {name for name in copies if copies[name].shape != weights[name].shape}
    assert all(torch.equal(copies[name], weights[name]) for name in copies.keys() - narrowed)
    # Both weights and one bias of each layer's FFN, where its width is an option of the model.
    assert len(narrowed) == (3 * 2 if hasattr(base.config, "intermediate_size") else 0)


def test_mirror_of_a_smaller_base_is_no_larger() -> None:
    policy: Any = build_policy(PolicyConfig(kind="mirror", layers=9), TINY["vit"].build(), 7)
    assert (policy.backbone.config.num_hidden_layers, policy.backbone.config.intermediate_size) == (3, 20)


@pytest.mark.parametrize(
    ("backbone", "config", "light", "mirror"),
    [
        # Word embeddings + head; embeddings, two layers with FFNs of 512, pooler + head.
        (BertModel, BertConfig, 3_906_816 + 126_312, 23_837_184 + 2 * 3_153_152 + 590_592 + 868_968),
        # Patch embedding + head; embeddings, layers, last norm, pooler + head.
        (ViTModel, ViTConfig, 98_432 + 159_336, 742_656 + 2 * 3_153_152 + 1_536 + 590_592 + 868_968),
    ],
)
def test_numbers_of_parameters_at_base_size(backbone: type[nn.Module], config: type, light: int, mirror: int) -> None:
    with torch.device("meta"):
        base = backbone(config())
    assert size_of(build_policy(PolicyConfig(), base, 180)) == light
    assert size_of(build_policy(PolicyConfig(kind="mirror"), base, 180)) == mirror


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None])
def test_sizes_are_whole_numbers_of_at_least_1(name: str, wrong: Any) -> None:
    PolicyConfig(**{name: 1})
    with pytest.raises(UserError, match=rf"policy\.{name} is {wrong}; it must be a whole number and at least 1"):
        PolicyConfig(**{name: wrong})
