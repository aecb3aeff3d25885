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
    CLIPProcessor,
    CLIPTokenizer,
    DeiTImageProcessorPil,
    ViTImageProcessorPil,
)

from adaptive_ft.data.pixels import Framing, framed
from adaptive_ft.errors import UserError
from adaptive_ft.subjects.picture_processing import PROCESSOR_FILE, UNCHANGED, PictureProcessing, load_processing
from adaptive_ft.tasks.classification import Normalisation
from tests.data.picture_files import noise_picture

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NESTING_FILE = "processor_config.json"
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


def test_a_processor_of_pictures_and_texts_keeps_the_one_of_pictures_inside(tmp_path: Path) -> None:
    """transformers 5 writes a CLIP's processor as processor_config.json alone."""
    texts = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    CLIPProcessor(PROCESSORS["clip"], texts).save_pretrained(tmp_path)
    assert not (tmp_path / PROCESSOR_FILE).exists()
    found = load_processing(str(tmp_path))
    assert found.framing == Framing(14, 14, keeps_shape=True, resample=Image.Resampling.BICUBIC)
    assert found.normalisation.mean == tuple(PROCESSORS["clip"].image_mean)


def test_a_processor_without_a_word_on_pictures_is_silent(tmp_path: Path) -> None:
    (tmp_path / NESTING_FILE).write_text('{"processor_class": "CLIPProcessor"}')
    assert load_processing(str(tmp_path)) == PictureProcessing()


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "one mean": ({"image_mean": [0.5], "image_std": [0.5]}, "has the mean .*0.5.* three colours are read"),
    "no list": ({"image_mean": 0.5}, r"has the mean 0.5 .* three colours are read"),
    "words as means": ({"image_mean": ["a", "b", "c"]}, "has the mean .*'a', 'b', 'c'.* three colours are read"),
    "nothing as spread": ({"image_std": [None] * 3}, "has the mean .*None.* three colours are read"),
    "no spread": ({"image_std": [0.5, 0, 0.5]}, "has .* a spread above 0"),
    "no number as spread": ({"image_std": [0.5, float("nan"), 0.5]}, "has .* a spread above 0"),
    "factor 0": ({"rescale_factor": 0}, "has the rescale_factor 0; a number above 0 is read"),
    "a word as factor": ({"rescale_factor": "1/255"}, "has the rescale_factor '1/255'; a number above 0 is read"),
    "unknown resampling": ({"resample": 99}, "has the resample 99; 0 to 5 are read"),
    "a word as resampling": ({"resample": "bicubic"}, "has the resample 'bicubic'; 0 to 5 are read"),
    "words as sides": ({"size": {"height": "a", "width": "a"}}, r"has the size .*'a'.*whole numbers of pixels above 0"),
    "half pixels": ({"size": {"height": 9.5, "width": 9.5}}, "has the size .*whole numbers of pixels above 0"),
    "below 0": ({"do_center_crop": True, "crop_size": -1}, "has the crop_size .*-1.*whole numbers of pixels above 0"),
    "no sides": ({"size": []}, "cannot be read: list index out of range"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_options_are_named(name: str, tmp_path: Path) -> None:
    content, message = FAULTY[name]
    with pytest.raises(UserError, match=f"image processor of '{tmp_path}' {message}"):
        load_processing(write(tmp_path, **content))


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "{", "{}", ""])
def test_a_file_that_is_no_processor_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / PROCESSOR_FILE).write_text(content)
    with pytest.raises(UserError, match=f"image processor of '{tmp_path}' cannot be read"):
        load_processing(str(tmp_path))


@pytest.mark.parametrize("content", ["3", "{", '{"image_processor": [1]}', '{"image_processor": {"size": 4}}'])
def test_a_nesting_file_that_is_no_processor_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / NESTING_FILE).write_text(content)
    with pytest.raises(UserError, match=f"image processor of '{tmp_path}' cannot be read"):
        load_processing(str(tmp_path))


def test_a_missing_folder_is_refused_before_any_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt run, and a name in any folder that is here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("runs/picturs", "models/vit"):
        with pytest.raises(UserError, match=f"model folder '{name}' does not exist"):
            load_processing(name)
