"""A model without weights from its configuration: which class it gets, and that it has its whole size."""

from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, CLIPConfig, CLIPVisionConfig, ViTConfig

from adaptive_ft.errors import UserError
from adaptive_ft.models.outline import outline

FEW = {"num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("config", "architectures", "expected"),
    [
        (BertConfig(**FEW), None, "BertModel"),
        (BertConfig(**FEW), ["BertForQuestionAnswering"], "BertForQuestionAnswering"),
        (BertConfig(**FEW), ["SomebodysBert"], "BertModel"),
        (ViTConfig(**FEW), ["ViTForImageClassification"], "ViTForImageClassification"),
        # Not a class that is built from the configuration, though its name stands in the module.
        (ViTConfig(**FEW), ["ViTLayer"], "ViTModel"),
        (CLIPConfig(vision_config=CLIPVisionConfig(**FEW).to_dict()), ["CLIPModel"], "CLIPVisionModel"),
    ],
)
def test_the_class_the_configuration_names(config: Any, architectures: Any, expected: str, tmp_path: Path) -> None:
    config.architectures = architectures
    config.save_pretrained(tmp_path)
    model = outline(str(tmp_path))
    assert type(model).__name__ == expected
    assert all(parameter.is_meta for parameter in model.parameters())
    assert getattr(model.config, "num_hidden_layers", None) == 1


def test_another_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=r"of type 't5'; these can be adapted: lxmert, .*clip_vision_model"):
        outline(str(tmp_path))
