"""Checkpoints of the original VL-BERT: every form of every name, both copies, and what cannot be read."""

import pickle
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adaptive_ft.errors import UserError
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering, convert_checkpoint

# Ours -> the original's, written down from the description of its modules.
OUTSIDE_THE_LAYERS = {
    "vlbert.embeddings.word_embeddings.weight": "vlbert.word_embeddings.weight",
    "vlbert.embeddings.end_embedding.weight": "vlbert.end_embedding.weight",
    "vlbert.embeddings.position_embeddings.weight": "vlbert.position_embeddings.weight",
    "vlbert.embeddings.token_type_embeddings.weight": "vlbert.token_type_embeddings.weight",
    "vlbert.embeddings.LayerNorm.weight": "vlbert.embedding_LayerNorm.weight",
    "vlbert.embeddings.LayerNorm.bias": "vlbert.embedding_LayerNorm.bias",
    "vlbert.embeddings.visual_text.LayerNorm.weight": "vlbert.visual_ln_text.weight",
    "vlbert.embeddings.visual_text.LayerNorm.bias": "vlbert.visual_ln_text.bias",
    "vlbert.embeddings.visual_region.LayerNorm.weight": "vlbert.visual_ln_object.weight",
    "vlbert.embeddings.visual_region.LayerNorm.bias": "vlbert.visual_ln_object.bias",
    "vlbert.embeddings.region_embedding.weight": "object_linguistic_embeddings.weight",
    "vlbert.embeddings.region_projection.dense.weight": "image_feature_extractor.obj_downsample.1.weight",
    "vlbert.embeddings.region_projection.dense.bias": "image_feature_extractor.obj_downsample.1.bias",
    "answer_head.transform.dense.weight": "final_mlp.0.dense.weight",
    "answer_head.transform.dense.bias": "final_mlp.0.dense.bias",
    "answer_head.transform.LayerNorm.weight": "final_mlp.0.LayerNorm.weight",
    "answer_head.transform.LayerNorm.bias": "final_mlp.0.LayerNorm.bias",
    "answer_head.classifier.weight": "final_mlp.2.weight",
    "answer_head.classifier.bias": "final_mlp.2.bias",
}
# How SpotTune and SpotTune_Block name the frozen copy of a module.
PARALLEL = {
    "attention.self.": "attention.self.parallel_",
    "attention.output.": "attention.parallel_output.",
    "intermediate.": "parallel_intermediate.",
    "output.": "parallel_output.",
}


def original_name(name: str) -> str:
    return name if name.startswith("vlbert.encoder.layer.") else OUTSIDE_THE_LAYERS[name]


def frozen_name(key: str, strategy: str) -> str:
    """The frozen twin of a key inside the layers."""
    if strategy == "SpotTune_Block":
        return key.replace("encoder.layer.", "encoder.parallel_layer.")
    _, _, inside = key.partition("encoder.layer.")
    number, _, inside = inside.partition(".")
    tuned = next(start for start in PARALLEL if inside.startswith(start))
    return f"vlbert.encoder.layer.{number}.{PARALLEL[tuned]}{inside.removeprefix(tuned)}"


def old_norm(key: str) -> str:
    if "LayerNorm" not in key:
        return key
    return key.replace(".weight", ".gamma").replace(".bias", ".beta")


@pytest.fixture
def original(model: VLBertForQuestionAnswering) -> dict[str, Tensor]:
    return {original_name(name): value for name, value in model.state_dict().items()}


def test_every_weight_has_one_place_in_each_form(
    config: VLBertConfig, model: VLBertForQuestionAnswering, original: dict[str, Tensor]
) -> None:
    """Any order, with and without `module.`, gamma and beta or weight and bias: the model comes back."""
    dice = random.Random(0)
    keys = list(original)
    dice.shuffle(keys)
    mixed = {}
    for key in keys:
        form = old_norm(key) if dice.random() < 0.5 else key
        mixed[f"module.{form}" if dice.random() < 0.5 else form] = original[key]
    assert any(key.endswith("gamma") for key in mixed)
    converted, report = convert_checkpoint(mixed, config)
    assert (report.unused, report.missing) == ((), ())
    assert sorted(report.used.values()) == sorted(model.state_dict())
    for name, value in model.state_dict().items():
        assert converted[name].equal(value), name
    VLBertForQuestionAnswering(config).load_state_dict(converted)


@pytest.mark.parametrize("strategy", ["SpotTune", "SpotTune_Block"])
def test_of_two_copies_the_asked_one_is_read(config: VLBertConfig, original: dict[str, Tensor], strategy: str) -> None:
    layers = [key for key in original if "encoder.layer." in key]
    twins = {frozen_name(key, strategy): original[key] + 1 for key in layers}
    assert all("parallel_" in key for key in twins)
    assert len(twins) == len(layers) == 2 * 16
    both = original | twins
    tuned, report = convert_checkpoint(both, config)
    assert report.unused == tuple(twins)
    assert report.missing == ()
    frozen, report = convert_checkpoint(both, config, weights="frozen")
    assert set(report.unused) == set(layers)
    assert report.missing == ()
    for name, value in tuned.items():
        assert frozen[name].equal(value + 1 if "encoder.layer." in name else value), name


def test_the_report_names_what_is_unused_and_missing(config: VLBertConfig, original: dict[str, Tensor]) -> None:
    del original["final_mlp.2.weight"]
    original["vlbert.pooler.dense.weight"] = torch.zeros(32, 32)
    original["vlbert.encoder.layer.2.output.dense.bias"] = torch.zeros(32)
    _, report = convert_checkpoint(original, config)
    assert report.unused == ("vlbert.pooler.dense.weight", "vlbert.encoder.layer.2.output.dense.bias")
    assert report.missing == ("answer_head.classifier.weight",)
    text = str(report)
    assert text.startswith(f"{len(original) - 2} weights used, 2 unused, 1 missing")
    assert "final_mlp.2.bias -> answer_head.classifier.bias" in text


def test_the_head_of_a_pretraining_checkpoint(config: VLBertConfig, original: dict[str, Tensor]) -> None:
    pretraining = {
        key.replace("final_mlp.0", "vlbert.mlm_head.predictions.transform"): value
        for key, value in original.items()
        if "final_mlp.2" not in key
    }
    converted, report = convert_checkpoint(pretraining, config)
    assert converted["answer_head.transform.dense.weight"].equal(original["final_mlp.0.dense.weight"])
    assert report.missing == ("answer_head.classifier.weight", "answer_head.classifier.bias")


@pytest.mark.parametrize("options", [{"visual_size": 24}, {"visual_ln": False}], ids=["1x1", "factor"])
def test_optional_modules(config: VLBertConfig, options: dict[str, object]) -> None:
    config = VLBertConfig(**{**config.to_dict(), **options})
    theirs = {
        "embeddings.visual_text.dense": "visual_1x1_text",
        "embeddings.visual_region.dense": "visual_1x1_object",
        "embeddings.visual_text.scale": "visual_scale_text",
        "embeddings.visual_region.scale": "visual_scale_object",
    }
    state = {}
    for name, value in VLBertForQuestionAnswering(config).state_dict().items():
        found = next((ours for ours in theirs if ours in name), None)
        value = value.squeeze() if name.endswith("scale") else value  # the original's has no axis
        state[name.replace(found, theirs[found]) if found else original_name(name)] = value
    assert any("visual_1x1" in key or "visual_scale" in key for key in state)
    converted, report = convert_checkpoint(state, config)
    assert (report.unused, report.missing) == ((), ())
    VLBertForQuestionAnswering(config).load_state_dict(converted)


def test_a_checkpoint_without_some_of_the_encoder_is_refused(config: VLBertConfig, original: dict[str, Tensor]) -> None:
    part = {key: value for key, value in original.items() if "layer.1.output.dense" not in key}
    with pytest.raises(UserError, match=r"lacks 2 weights .* 'vlbert\.encoder\.layer\.1\.output\.dense\.weight'"):
        convert_checkpoint(part, config)
    config.num_hidden_layers = 3
    with pytest.raises(UserError, match="lacks 16 weights of the backbone"):
        convert_checkpoint(original, config)


def test_a_file_of_the_original(config: VLBertConfig, original: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "vqa-best.model"
    saved = {"state_dict": original, "optimizer": {"state": {}}, "validation_monitor": {"best_epoch": 3}}
    torch.save(saved, path)
    converted, report = convert_checkpoint(path, config)
    assert len(report.used) == len(converted) == len(original)
    assert report.unread == ("optimizer", "validation_monitor")


class Surprise:
    """What a hostile pickle could hold."""


def test_files_that_are_no_checkpoint(config: VLBertConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        convert_checkpoint(tmp_path / "missing.model", config)
    for name, content in {
        "empty": b"",
        "text": b"not a checkpoint",
        "pickle": pickle.dumps({"a": 1}, protocol=2),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*: (it is no torch|Invalid magic)|is of type int"):
            convert_checkpoint(path, config)
    torch.save({"state_dict": Surprise()}, tmp_path / "code.model")
    with pytest.raises(UserError, match=r"cannot read .*code\.model': it holds '.*\.Surprise'; only tensors") as caught:
        convert_checkpoint(tmp_path / "code.model", config)
    assert "\x1b" not in str(caught.value)
    torch.save(torch.zeros(2), tmp_path / "tensor.model")
    with pytest.raises(UserError, match="holds no state dict"):
        convert_checkpoint(tmp_path / "tensor.model", config)


def test_weights_that_do_not_fit(config: VLBertConfig, original: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="holds no state dict"):
        convert_checkpoint({}, config)
    with pytest.raises(UserError, match=r"'epoch' in the state dict is of type int"):
        convert_checkpoint(original | {"epoch": 3}, config)
    with pytest.raises(UserError, match="holds no weights of VL-BERT"):
        convert_checkpoint({"conv1.weight": torch.zeros(1)}, config)
    with pytest.raises(UserError, match="must be 'tuned' or 'frozen'"):
        convert_checkpoint(original, config, weights="both")
    with pytest.raises(UserError, match="two weights for the same place"):
        convert_checkpoint(original | {"module.final_mlp.2.bias": torch.zeros(7)}, config)
    with pytest.raises(UserError, match=r"'final_mlp.2.bias' of the state dict has shape \[9\].*asks for \[7\]"):
        convert_checkpoint(original | {"final_mlp.2.bias": torch.zeros(9)}, config)
