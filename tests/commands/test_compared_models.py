"""Models of every picture family are read at their blocks and behind their final norm."""

from pathlib import Path

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

from adaptive_ft.commands.compared_models import open_compared
from adaptive_ft.errors import UserError

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
NORMS = {"clip": "vision_model.post_layernorm"}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_and_the_final_norm_are_read(family: str, tmp_path: Path) -> None:
    """The last hidden state of the library is the output of the last block; the norm makes of it what comes after."""
    FAMILIES[family]().save_pretrained(tmp_path / family)
    compared = open_compared("pretrained", str(tmp_path / family), "frozen", ("a", "b"))
    reader = compared.reader(CPU)
    assert reader.layers == ("layer.0", "layer.1", "norm")
    pixels = torch.rand(3, *reader.input_shape, generator=torch.Generator().manual_seed(1))
    normalised = compared.subject.processing.normalisation(255 * pixels)
    with torch.no_grad():
        found = reader(pixels, torch.arange(3), reader.layers)
        hidden = compared.base(pixel_values=normalised, output_hidden_states=True).hidden_states
        norm = compared.base.get_submodule(NORMS.get(family, f"{family}.layernorm"))
        assert torch.allclose(found["layer.1"], hidden[2].flatten(1), atol=1e-6)
        assert torch.allclose(found["norm"], norm(hidden[2])[:, 0], atol=1e-6)
    assert found["norm"].shape == (3, 16)


def test_a_random_model_is_fed_in_the_same_way_and_drawn_from_its_seed(tmp_path: Path) -> None:
    FAMILIES["vit"]().save_pretrained(tmp_path / "vit")
    compared = open_compared("pretrained", str(tmp_path / "vit"), "frozen", ("a", "b"))
    before = torch.get_rng_state()
    first, again, other = (compared.at_random(seed).reader(CPU) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.input_shape == compared.reader(CPU).input_shape
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, compared.reader(CPU).fingerprint}) == 3


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        open_compared("control", str(tmp_path / "nowhere"), "tuned", ("a", "b"))
