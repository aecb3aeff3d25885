"""How pixels are measured is read beside the base model, and kept beside what is saved."""

import json
import logging
from pathlib import Path

import pytest
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

from adaptive_ft.errors import UserError
from adaptive_ft.subjects.pictures import PROCESSOR_FILE, UNCHANGED, Pictures, load_normalisation
from adaptive_ft.tasks.classification import Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write(folder: Path, **content: object) -> str:
    (folder / PROCESSOR_FILE).write_text(json.dumps(content))
    return str(folder)


def test_it_is_read_beside_the_model(tmp_path: Path) -> None:
    name = write(tmp_path, image_mean=list(IMAGENET.mean), image_std=list(IMAGENET.std))
    assert load_normalisation(name) == IMAGENET


def test_a_silent_base_model_is_measured_as_vit_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_normalisation(None) == Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with caplog.at_level(logging.WARNING):
        assert load_normalisation(str(tmp_path)) == Normalisation()
    assert "No preprocessor_config.json was found" in caplog.text


def test_a_model_that_takes_plain_shares(tmp_path: Path) -> None:
    assert load_normalisation(write(tmp_path, do_normalize=False, image_mean=[0.1] * 3)) == UNCHANGED


def test_faulty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the mean .* three colours are read"):
        load_normalisation(write(tmp_path, image_mean=[0.5], image_std=[0.5]))
    (tmp_path / PROCESSOR_FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_normalisation(str(tmp_path))


def test_what_is_saved_is_read_back_here_and_by_transformers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    base = ViTForImageClassification(ViTConfig(**sizes, image_size=24, patch_size=8))
    Pictures(["a", "b"], IMAGENET).save(tmp_path, base)
    assert load_normalisation(str(tmp_path)) == IMAGENET
    base.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert (processor.size["height"], processor.size["width"]) == (24, 24)
    assert tuple(processor.image_mean) == IMAGENET.mean
