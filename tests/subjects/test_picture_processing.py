"""How pictures are framed and measured is read beside the base model, and does what transformers does with them."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    DeiTImageProcessorPil,
    ViTImageProcessorPil,
)

from adaptive_ft.data.pixels import Framing, framed
from adaptive_ft.errors import UserError
from adaptive_ft.subjects.picture_processing import PROCESSOR_FILE, UNCHANGED, PictureProcessing, load_processing
from adaptive_ft.tasks.classification import Normalisation
from tests.data.picture_files import noise_picture

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MEASURE = {"image_mean": list(IMAGENET.mean), "image_std": list(IMAGENET.std)}
CROP = {"height": 14, "width": 14}
PROCESSORS: dict[str, Any] = {
    "vit": ViTImageProcessorPil(size={"height": 14, "width": 14}),
    "deit": DeiTImageProcessorPil(size={"height": 16, "width": 16}, crop_size=CROP, **MEASURE),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 17}, crop_size=CROP, **MEASURE),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size=CROP),
    "brightness up to 255": ViTImageProcessorPil(
        size=CROP, do_rescale=False, image_mean=[127.5] * 3, image_std=[9] * 3
    ),
}


def write(folder: Path, **content: object) -> str:
    (folder / PROCESSOR_FILE).write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **content}))
    return str(folder)


def pixel_values(processing: PictureProcessing, picture: Image.Image) -> torch.Tensor:
    assert processing.framing is not None
    pixels_HW3 = np.array(framed(picture, processing.framing))
    return processing.normalisation(torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None])


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(30, 20), (19, 33)], ids=str)
def test_pixels_are_those_of_the_checkpoints_processor_and_of_the_one_saved(
    name: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    PROCESSORS[name].save_pretrained(tmp_path / "first")
    picture = noise_picture(1).resize(shape)
    processing = load_processing(str(tmp_path / "first"))
    found = pixel_values(processing, picture)
    expected = PROCESSORS[name](picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected)
    assert processing.framing is not None
    processing.save(tmp_path / "second", processing.framing)
    assert load_processing(str(tmp_path / "second")) == processing
    saved = AutoImageProcessor.from_pretrained(tmp_path / "second", backend="pil")
    torch.testing.assert_close(saved(picture, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("DeiTFeatureExtractor", Framing(224, 256, resample=Image.Resampling.BICUBIC)),
        ("CLIPFeatureExtractor", Framing(224, 256, keeps_shape=True, resample=Image.Resampling.BICUBIC)),
    ],
)
def test_old_files_mean_what_their_class_means(kind: str, expected: Framing, tmp_path: Path) -> None:
    content = {"feature_extractor_type": kind, "size": 256, "crop_size": 224, "resample": 3, "do_center_crop": True}
    (tmp_path / PROCESSOR_FILE).write_text(json.dumps(content))
    assert load_processing(str(tmp_path)).framing == expected


def test_a_silent_base_model_is_fed_as_vit_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_processing(None) == PictureProcessing(Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), None)
    with caplog.at_level(logging.WARNING):
        assert load_processing(str(tmp_path)) == PictureProcessing()
    assert "No preprocessor_config.json was found" in caplog.text


def test_a_model_that_takes_plain_shares(tmp_path: Path) -> None:
    assert load_processing(write(tmp_path, do_normalize=False, image_mean=[0.1] * 3)).normalisation == UNCHANGED


@pytest.mark.parametrize(
    "content",
    [
        {"do_resize": False},
        {"size": {"shortest_edge": 20}},
        {"size": {"height": 20, "width": 30}},
        {"size": {"height": 10, "width": 10}, "do_center_crop": True, "crop_size": CROP},
        {"size": {"shortest_edge": 20, "longest_edge": 30}, "do_center_crop": True, "crop_size": CROP},
    ],
    ids=json.dumps,
)
def test_pictures_are_stretched_where_the_processor_makes_no_squares(
    content: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_processing(write(tmp_path, **content)).framing is None
    assert "stretched to the model's size" in caplog.text


def test_faulty_files_are_named(tmp_path: Path) -> None:
    for faulty in ([0.5], 0.5):
        with pytest.raises(UserError, match=r"has the mean .* three colours are read"):
            load_processing(write(tmp_path, image_mean=faulty, image_std=faulty))
    (tmp_path / PROCESSOR_FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_processing(str(tmp_path))
