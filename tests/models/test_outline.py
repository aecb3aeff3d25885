"""A model without weights from its configuration: which class it gets, and that it has its whole size."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, CLIPConfig, CLIPVisionConfig, Dinov2Config, ViTConfig

from adaptive_ft.errors import UserError
from adaptive_ft.models import describe
from adaptive_ft.models.outline import outline
from adaptive_ft.models.vlbert import VLBertConfig

FEW = {"num_hidden_layers": 1}
CLIP = CLIPConfig(vision_config=CLIPVisionConfig(**FEW).to_dict())


@pytest.mark.parametrize(
    ("config", "architectures", "expected"),
    [
        (BertConfig(**FEW), None, "BertModel"),
        (BertConfig(**FEW), ["BertForQuestionAnswering"], "BertForQuestionAnswering"),
        (BertConfig(**FEW), ["SomebodysBert"], "BertModel"),
        (ViTConfig(**FEW), ["ViTForImageClassification"], "ViTForImageClassification"),
        # Not a class that is built from the configuration, though its name stands in the module.
        (ViTConfig(**FEW), ["ViTLayer"], "ViTModel"),
        # Classes of the family that hold no backbone.
        (BertConfig(**FEW), ["BertPreTrainedModel"], "BertModel"),
        (Dinov2Config(**FEW), ["Dinov2Backbone"], "Dinov2Model"),
        (Dinov2Config(**FEW), ["Dinov2ForImageClassification"], "Dinov2ForImageClassification"),
        (VLBertConfig(**FEW), ["VLBertForQuestionAnswering"], "VLBertForQuestionAnswering"),
        (CLIP, ["CLIPModel"], "CLIPModel"),
        (CLIP, ["CLIPForImageClassification"], "CLIPForImageClassification"),
        (CLIP, ["SomebodysClip"], "CLIPVisionModel"),
        (CLIP, None, "CLIPVisionModel"),
    ],
)
def test_the_class_the_configuration_names(config: Any, architectures: Any, expected: str, tmp_path: Path) -> None:
    """Otherwise the bare backbone, and the name of what it is a part of."""
    config.architectures = architectures
    config.save_pretrained(tmp_path)
    found = outline(str(tmp_path))
    assert type(found.model).__name__ == expected
    assert all(parameter.is_meta for parameter in found.model.parameters())
    assert {block.path.rpartition(".")[2] for block in describe(found.model).blocks} == {"0"}
    named = architectures[0] if architectures else None
    assert found.part_of == (None if named == expected else named or ("clip" if config is CLIP else None))


def test_another_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=r"of type 't5'; these can be adapted: lxmert, .*clip_vision_model"):
        outline(str(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [{"num_attention_heads": 7}, {"num_attention_heads": 0}, {"hidden_act": "nothing"}, {"intermediate_size": -1}],
    ids=str,
)
@pytest.mark.parametrize("architectures", [None, ["BertForQuestionAnswering"]], ids=["backbone", "whole"])
def test_sizes_that_no_model_can_have_are_told(wrong: dict[str, Any], architectures: Any, tmp_path: Path) -> None:
    config = BertConfig(**FEW, architectures=architectures).to_dict() | wrong
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"no Bert\w+ can be made from the config\.json of '{tmp_path}': "):
        outline(str(tmp_path))
