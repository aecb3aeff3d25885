"""Models of every picture family are read at their blocks, and where their answer is read from."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from adaptive_ft.analysis.representations import Reader
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.world.labelled import PicturesConfig, generate_pictures
from adaptive_ft.errors import UserError
from adaptive_ft.measured.inputs import read_examples
from adaptive_ft.measured.models import Compared, open_compared
from adaptive_ft.measured.named import named_model
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.subjects.pictures import Pictures

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
CPU = torch.device("cpu")


def clip() -> PreTrainedModel:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config={**SIZES, "intermediate_size": 16}, projection_dim=16))


FAMILIES = {
    "vit": lambda: ViTModel(ViTConfig(**SIZES, intermediate_size=16)),
    "deit": lambda: DeiTModel(DeiTConfig(**SIZES, intermediate_size=16)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=1)),
    "clip": clip,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """A few labelled pictures."""
    place = tmp_path_factory.mktemp("pictures")
    few = PicturesConfig(source_train_images=2, source_val_images=2, target_train_images=2, target_val_images=3)
    generate_pictures(place / "pictures", few)
    return open_set(str(place / "pictures/target/val"), DataConfig())


def reader_of(compared: Compared, shards: ShardSet) -> Reader:
    return compared.reader(CPU, read_examples(compared.fit(shards), 3))


def fed(compared: Compared, reader: Reader) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels for the reader, and what the model makes its input of them."""
    pixels = torch.rand(3, *reader.input_shape, generator=torch.Generator().manual_seed(1))
    assert isinstance(compared.subject, Pictures)
    return pixels, compared.subject.processing.normalisation(255 * pixels)


def test_the_best_checkpoint_of_a_run_can_be_read(finished_run: RunFolder, workplace: Path, tmp_path: Path) -> None:
    """Where it is not the last one: its name is told, and its weights are read."""
    run = RunFolder(shutil.copytree(finished_run.path, tmp_path / "run"))
    (run.path / "checkpoints/best").write_text("step_000002")
    questions = open_set(str(workplace / "world/target/val"), DataConfig())
    hashes = set()
    for which, step in (("best", "step_000002"), ("latest", "step_000003")):
        compared = open_compared("fine-tuned", str(run.path), "network", questions, which=which)
        hashes.add(reader_of(compared, questions).fingerprint)
        assert named_model(str(run.path), "network", which)["checkpoint"] == step
    assert len(hashes) == 2


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2"])
def test_blocks_and_the_final_norm_are_read(family: str, tmp_path: Path, shards: ShardSet) -> None:
    """The last hidden state of the library is the output of the last block; the norm makes of it what comes after."""
    FAMILIES[family]().save_pretrained(tmp_path / family)
    compared = open_compared("pretrained", str(tmp_path / family), "frozen", shards)
    reader = reader_of(compared, shards)
    assert reader.layers == ("layer.0", "layer.1", "norm")
    pixels, normalised = fed(compared, reader)
    with torch.no_grad():
        found = reader(pixels, torch.arange(3), reader.layers)
        hidden = compared.base(pixel_values=normalised, output_hidden_states=True).hidden_states
        norm = compared.base.get_submodule(f"{family}.layernorm")
        assert torch.allclose(found["layer.1"], hidden[2].flatten(1), atol=1e-6)
        assert torch.allclose(found["norm"], norm(hidden[2])[:, 0], atol=1e-6)
    assert found["norm"].shape == (3, 16)


def test_of_clip_what_its_classifier_reads_is_read(tmp_path: Path, shards: ShardSet) -> None:
    """The mean of the patches: the norm behind its class token gets no gradient of an answer."""
    FAMILIES["clip"]().save_pretrained(tmp_path / "clip")
    compared = open_compared("pretrained", str(tmp_path / "clip"), "frozen", shards)
    reader = reader_of(compared, shards)
    assert reader.layers == ("layer.0", "layer.1", "pooled")
    pixels, normalised = fed(compared, reader)
    base: Any = compared.base
    with torch.no_grad():
        found = reader(pixels, torch.arange(3), reader.layers)
        whole = base(pixel_values=normalised, output_hidden_states=True)
        assert torch.allclose(found["layer.1"], whole.hidden_states[2].flatten(1), atol=1e-6)
        assert torch.allclose(base.classifier(found["pooled"]), whole.logits, atol=1e-6)


def test_a_random_model_is_fed_in_the_same_way_and_drawn_from_its_seed(tmp_path: Path, shards: ShardSet) -> None:
    FAMILIES["vit"]().save_pretrained(tmp_path / "vit")
    compared = open_compared("pretrained", str(tmp_path / "vit"), "frozen", shards)
    before = torch.get_rng_state()
    first, again, other = (reader_of(compared.at_random(seed), shards) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.input_shape == reader_of(compared, shards).input_shape
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, reader_of(compared, shards).fingerprint}) == 3


def test_a_folder_without_a_model_is_told(tmp_path: Path, shards: ShardSet) -> None:
    with pytest.raises(UserError, match="nowhere"):
        open_compared("control", str(tmp_path / "nowhere"), "tuned", shards)
