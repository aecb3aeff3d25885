"""Picture models as bases: random ViT, every pretrained family with a new head, and what does not fit."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.errors import UserError
from adaptive_ft.models import describe
from adaptive_ft.models.bases.pictures import fed_side, image_size_of
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base

CLASSES = ["cat", "cow", "dog"]
FACTS = DataFacts(CLASSES, content=LABELLED_PICTURES)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 12,
    "patch_size": 4,
}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 10}
CHECKPOINTS: dict[str, Any] = {
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SIZES, num_labels=7)),
    "deit, distilled": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES, num_labels=7)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2)),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=SIZES, projection_dim=8)),
}
TINY = ModelConfig(
    type="vit", hidden_size=16, num_attention_heads=2, intermediate_size=24, layers=2, image_size=12, patch_size=4
)


def answers(model: PreTrainedModel) -> tuple[int, ...]:
    return tuple(model.eval()(pixel_values=torch.randn(2, 3, 12, 12)).logits.shape)


def test_a_random_vit_of_the_sizes_asked_for() -> None:
    model = build_base(TINY, FACTS)
    assert isinstance(model, ViTForImageClassification)
    assert answers(model) == (2, 3)
    assert model.config.id2label == {0: "cat", 1: "cow", 2: "dog"}
    assert len(describe(model).components) == 2 * (2 + 3)
    assert image_size_of(model.config) == 12


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_pretrained_model_gets_a_head_for_the_classes(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = CHECKPOINTS[family]()
    checkpoint.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert "classifier.bias, classifier.weight" in caplog.text
    assert answers(model) == (2, 3)
    assert image_size_of(model.config) == 12
    assert len(describe(model).components) == 2 * (2 + 3)
    before = {key: value for key, value in checkpoint.state_dict().items() if "text_model" not in key}
    layers = [key for key in model.state_dict() if re.search(r"layers?\.1\.", key)]
    assert len(layers) >= 16
    for key in layers:
        (old,) = [name for name in before if name.endswith(key[key.index("layer") :])]
        assert torch.equal(before[old], model.state_dict()[key])


def test_two_heads_of_a_distilled_deit_of_as_many_classes_give_way_to_one(tmp_path: Path) -> None:
    config = DeiTConfig(**SIZES, id2label=dict(enumerate(CLASSES)))
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
    model = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert type(model) is DeiTForImageClassification
    assert answers(model) == (2, 3)
    model.save_pretrained(tmp_path)
    again = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_the_head_stays_only_for_the_same_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = build_base(TINY, FACTS)
    base.save_pretrained(tmp_path)
    again = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert torch.equal(again.classifier.weight, base.classifier.weight)
    assert not caplog.records
    other = build_base(ModelConfig(name=str(tmp_path)), DataFacts(["a", "b", "c"], content=LABELLED_PICTURES))
    assert not torch.equal(other.classifier.weight, base.classifier.weight)
    assert "names other classes: newly initialised" in caplog.text
    assert other.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_a_folder_of_bf16_becomes_float32(tmp_path: Path) -> None:
    """Training owns float32 masters."""
    build_base(TINY, FACTS).bfloat16().save_pretrained(tmp_path)
    model = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_missing_backbone_weights_are_named(tmp_path: Path) -> None:
    model = build_base(TINY, FACTS)
    kept = {key: value for key, value in model.state_dict().items() if "layer.1." not in key and "layers.1." not in key}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(UserError, match=r"weights of the backbone, for instance 'vit.*1"):
        build_base(ModelConfig(name=str(tmp_path)), FACTS)


REFUSED: dict[str, tuple[ModelConfig, DataFacts, str]] = {
    "patches": (ModelConfig(type="vit", image_size=30, patch_size=16), FACTS, "30 is not a multiple of patch_size 16"),
    "heads": (ModelConfig(type="vit", hidden_size=30), FACTS, "30 is not a multiple of num_attention_heads 12"),
    "random deit": (ModelConfig(type="deit"), FACTS, "--model.type deit needs a checkpoint"),
    "lxmert": (ModelConfig(), FACTS, "hold labelled pictures, but a base model of type 'lxmert' reads questions"),
    "questions": (ModelConfig(type="vit"), DataFacts(["a"], 4, 9), "hold questions, but .* 'vit' reads labelled pict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    config, facts, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        build_base(config, facts)


def test_pictures_that_are_not_square_are_refused() -> None:
    assert image_size_of(ViTConfig(image_size=[12, 12])) == 12
    with pytest.raises(UserError, match="only square ones"):
        image_size_of(ViTConfig(image_size=[12, 16]))


def test_a_clip_classifier_is_read_back(tmp_path: Path) -> None:
    config = CLIPConfig(text_config=TEXT, vision_config=SIZES, id2label=dict(enumerate(CLASSES)))
    model = CLIPForImageClassification(config)
    model.save_pretrained(tmp_path)
    again = build_base(ModelConfig(name=str(tmp_path)), FACTS)
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_only_what_interpolates_its_positions_takes_pictures_of_the_processors_size() -> None:
    assert fed_side(ViTConfig(image_size=12, patch_size=4), 8) == 12
    dinov2 = Dinov2Config(**SIZES, mlp_ratio=2)
    assert (fed_side(dinov2, 8), fed_side(dinov2, 2)) == (8, 12)
    assert Dinov2Model(dinov2)(pixel_values=torch.randn(1, 3, 8, 8)).last_hidden_state.shape == (1, 5, 16)
