"""The base model that an adapted one is loaded onto: in the dtype it was adapted in, computing the same, with the same
weights shared; anything else is refused by name.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import BertForMaskedLM, DeiTModel, LxmertForPreTraining, ViTModel

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from tests.models.tiny_families import LXMERT, TINY

POLICY = PolicyConfig(embedding_size=4, hidden_size=8)


def adapt(base: Any, strategy: str = "spottune") -> AdaptiveModel:
    """An adapted copy of `base`, in evaluation mode, that has learned something everywhere."""
    model = get_adaptive_model(copy.deepcopy(base), AdaptiveConfig(strategy, policy=POLICY)).eval()
    with torch.no_grad():
        for members in model.parameter_groups().values():
            for _, parameter in members:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def vit(tmp_path: Path) -> Any:
    """A ViT in float32, loaded from a folder."""
    TINY["vit"].build().save_pretrained(tmp_path / "base")
    return ViTModel.from_pretrained(tmp_path / "base").eval()


@pytest.mark.parametrize("strategy", ["spottune", "blockdrop"])
def test_what_was_cast_after_it_was_adapted_is_found_on_its_base_as_that_was(
    strategy: str, vit: Any, tmp_path: Path
) -> None:
    """As a run in bf16 casts: the frozen half comes from the float32 base, what was learned is rounded."""
    model = adapt(vit, strategy)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.bfloat16())
    model.to(torch.bfloat16).save_pretrained(tmp_path / "adapted")
    inputs = TINY["vit"].inputs(3)
    for base in (None, copy.deepcopy(vit)):
        loaded = AdaptiveModel.from_pretrained(base, tmp_path / "adapted")
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).pooler_output, rounded(**inputs).pooler_output)


@pytest.mark.parametrize("strategy", ["spottune", "blockdrop"])
def test_a_base_of_another_dtype_is_refused(strategy: str, vit: Any, tmp_path: Path) -> None:
    adapt(vit, strategy).save_pretrained(tmp_path / "adapted")
    told = r"its dtype is 'bfloat16', the adapted one's was 'float32'\. To go on, load .* with dtype=torch\.float32"
    with pytest.raises(UserError, match=told):
        AdaptiveModel.from_pretrained(vit.to(torch.bfloat16), tmp_path / "adapted")


@pytest.mark.parametrize("strategy", ["spottune", "blockdrop"])
@pytest.mark.parametrize(
    ("option", "was", "now"),
    [("hidden_act", "gelu", "relu"), ("num_attention_heads", 2, 4), ("layer_norm_eps", 1e-12, 0.5)],
)
def test_a_base_that_computes_something_else_is_refused(
    strategy: str, option: str, was: Any, now: Any, vit: Any, tmp_path: Path
) -> None:
    """All shapes and weights are the same; only the configuration tells."""
    adapt(vit, strategy).save_pretrained(tmp_path / "adapted")
    other = ViTModel.from_pretrained(tmp_path / "base", **{option: now})
    before = list(other.named_modules())
    told = rf"its config\.{option} is '?{now}'?, the adapted one's was '?{was}'?\. To go on, load .*/base with its own"
    with pytest.raises(UserError, match=told):
        AdaptiveModel.from_pretrained(other, tmp_path / "adapted")
    assert list(other.named_modules()) == before


def test_a_base_with_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    adapt(LXMERT.build(), "blockdrop").save_pretrained(tmp_path)
    config = LXMERT.config()
    config.r_layers = 2
    with pytest.raises(UserError, match=r"its config\.r_layers is 2, the adapted one's was 1"):
        AdaptiveModel.from_pretrained(LXMERT.backbone(config), tmp_path)


def test_a_base_of_another_class_is_refused(vit: Any, tmp_path: Path) -> None:
    adapt(vit).save_pretrained(tmp_path / "adapted")
    with pytest.raises(UserError, match=r"its class is 'DeiTModel', the adapted one's was 'ViTModel'\. To go on, load"):
        AdaptiveModel.from_pretrained(DeiTModel(TINY["deit"].config()), tmp_path / "adapted")


def test_options_of_training_may_differ(vit: Any, tmp_path: Path) -> None:
    """Dropout, labels and outputs asked for change nothing that was learned."""
    model = adapt(vit)
    model.save_pretrained(tmp_path / "adapted")
    other = ViTModel.from_pretrained(tmp_path / "base", hidden_dropout_prob=0.3, num_labels=7, initializer_range=1.0)
    loaded, inputs = AdaptiveModel.from_pretrained(other, tmp_path / "adapted"), TINY["vit"].inputs(2)
    assert torch.equal(loaded(**inputs).pooler_output, model(**inputs).pooler_output)


def test_an_adapted_base_is_refused(vit: Any, tmp_path: Path) -> None:
    model = adapt(vit)
    model.save_pretrained(tmp_path / "adapted")
    for base in (model, model.base):
        with pytest.raises(UserError, match="adapted already"):
            AdaptiveModel.from_pretrained(base, tmp_path / "adapted")


def test_blockdrop_has_no_frozen_half_to_compare(vit: Any, tmp_path: Path) -> None:
    """All weights are in the file: any base of the same class, configuration and dtype becomes the saved model."""
    model, inputs = adapt(vit, "blockdrop"), TINY["vit"].inputs(3)
    model.save_pretrained(tmp_path / "adapted")
    assert model.frozen_hash() is None
    assert json.loads((tmp_path / "adapted/adaptive_config.json").read_text())["frozen_sha256"] is None
    loaded = AdaptiveModel.from_pretrained(TINY["vit"].build(), tmp_path / "adapted")
    assert torch.equal(loaded(**inputs).pooler_output, model(**inputs).pooler_output)


TIED = {
    "bert": (BertForMaskedLM, TINY["bert"], "bert.embeddings.word_embeddings", "cls.predictions.decoder", "logits"),
    "lxmert": (
        *(LxmertForPreTraining, LXMERT, "lxmert.embeddings.word_embeddings", "cls.predictions.decoder"),
        "prediction_logits",
    ),
}


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("given", ["loaded", "recorded"])
def test_shared_weights_are_saved_once_and_shared_again(kind: str, given: str, tmp_path: Path) -> None:
    made, family, first, second, result = TIED[kind]
    made(family.config()).save_pretrained(tmp_path / "base")
    base = made.from_pretrained(tmp_path / "base").eval()
    assert base.get_submodule(first).weight is base.get_submodule(second).weight, "the premise of this test"
    model, inputs = adapt(base, "spottune_block"), family.inputs(2)
    model.save_pretrained(tmp_path / "adapted")
    with safe_open(tmp_path / "adapted/adaptive_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert f"base.{first}.weight" in names
    assert f"base.{second}.weight" not in names
    loaded: Any = AdaptiveModel.from_pretrained(base if given == "loaded" else None, tmp_path / "adapted")
    assert loaded.base.get_submodule(first).weight is loaded.base.get_submodule(second).weight
    with torch.no_grad():
        assert torch.equal(loaded(**inputs)[result], model(**inputs)[result])


def test_a_state_that_names_a_shared_weight_twice_is_saved_once(tmp_path: Path) -> None:
    """Some engines gather by module and give a copy under each name."""
    base = BertForMaskedLM(TINY["bert"].config()).eval()
    model = adapt(base)
    once = model.adaptive_state_dict()
    twice = {name: value.clone() for name, value in model.named_parameters(remove_duplicate=False) if name in once}
    second = "base.cls.predictions.decoder.weight"
    assert second not in twice
    model.save_pretrained(tmp_path, {**twice, second: model.state_dict()[second].clone()})
    loaded: Any = AdaptiveModel.from_pretrained(base, tmp_path)
    assert torch.equal(loaded.base.cls.predictions.decoder.weight, model.state_dict()[second])


def test_a_base_that_does_not_share_what_the_adapted_one_shared_is_refused(tmp_path: Path) -> None:
    adapt(BertForMaskedLM(TINY["bert"].config())).save_pretrained(tmp_path)
    config = TINY["bert"].config()
    config.tie_word_embeddings = False
    with pytest.raises(UserError, match=r"its config\.tie_word_embeddings is False, the adapted one's was True"):
        AdaptiveModel.from_pretrained(BertForMaskedLM(config), tmp_path)
