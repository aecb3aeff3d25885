"""Pictures are fed in the frame of the base model's processor, at the model's size, and saved so."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model, PreTrainedModel, ViTConfig, ViTModel

from adaptive_ft.data.pixels import Framing
from adaptive_ft.subjects.picture_processing import PictureProcessing, load_processing
from adaptive_ft.subjects.pictures import Pictures
from adaptive_ft.tasks.classification import Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 24}
MIDDLE = Framing(16, 18, keeps_shape=True)


@pytest.fixture
def vit() -> PreTrainedModel:
    return ViTModel(ViTConfig(**SIZES, intermediate_size=8, patch_size=8))


def pictures(framing: Framing | None) -> Pictures:
    return Pictures(["a", "b"], PictureProcessing(IMAGENET, framing))


def test_the_models_size_holds_unless_it_takes_any(vit: PreTrainedModel) -> None:
    assert pictures(None).framing(vit) == Framing(24)
    assert pictures(MIDDLE).framing(vit) == Framing(24, 27, keeps_shape=True)
    dinov2 = Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=1, patch_size=8))
    assert pictures(MIDDLE).framing(dinov2) == MIDDLE
    assert pictures(None).framing(dinov2) == Framing(24)


def test_what_is_saved_is_read_back_here_and_by_transformers(vit: PreTrainedModel, tmp_path: Path) -> None:
    pictures(MIDDLE).save(tmp_path, vit)
    assert load_processing(str(tmp_path)) == PictureProcessing(IMAGENET, Framing(24, 27, keeps_shape=True))
    vit.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert (processor.crop_size["height"], processor.crop_size["width"]) == (24, 24)
    assert tuple(processor.image_mean) == IMAGENET.mean
