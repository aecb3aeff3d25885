"""The base model an adapted one stands on is written down and loaded again, or the way out is told."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertModel, LxmertForQuestionAnswering, ViTForImageClassification

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.models.recorded import load_recorded, record_of
from adaptive_ft.models.vlbert import VLBertForQuestionAnswering
from tests.models.tiny_families import LXMERT, TINY, Family

POLICY = PolicyConfig(embedding_size=4, hidden_size=8)
# Class, family, how its config calls the number of answers, and its result.
BASES: dict[str, tuple[Any, Family, str, str]] = {
    "vit": (ViTForImageClassification, TINY["vit"], "num_labels", "logits"),
    "vl_bert": (VLBertForQuestionAnswering, TINY["vl_bert"], "num_answers", "question_answering_score"),
    "lxmert": (LxmertForQuestionAnswering, LXMERT, "num_qa_labels", "question_answering_score"),
}


@pytest.fixture(params=BASES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the three."""
    name: str = request.param
    return name


def saved_base(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A base with a head of 4 answers, loaded from a folder as a person has it."""
    made, family, labels, _ = BASES[kind]
    config = family.config()
    setattr(config, labels, 4)
    made(config).to(dtype).save_pretrained(folder)
    return made.from_pretrained(folder, dtype=dtype)


def adapt(base: nn.Module) -> AdaptiveModel:
    model = get_adaptive_model(base, AdaptiveConfig("spottune", policy=POLICY)).eval()
    with torch.no_grad():
        for group in ("delta", "other", "head"):
            for _, parameter in model.parameter_groups()[group]:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def result(model: nn.Module, kind: str, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs)[BASES[kind][3]]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_base_is_found_again(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Class, checkpoint, configuration and dtype; the answers are the same to the bit."""
    model = adapt(saved_base(kind, tmp_path / "base", dtype))
    model.save_pretrained(tmp_path / "adapted")
    loaded = AdaptiveModel.from_pretrained(None, tmp_path / "adapted")
    assert type(loaded.base) is type(model.base)
    assert {value.dtype for value in loaded.base.parameters()} == {dtype}
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in BASES[kind][1].inputs(3).items()
    }
    assert torch.equal(result(loaded, kind, inputs), result(model, kind, inputs))


def test_a_head_of_another_size_than_the_checkpoints_comes_back(kind: str, tmp_path: Path) -> None:
    """The usual case: the base has another head or none, the adapted model's was made for the task."""
    saved_base(kind, tmp_path / "base")
    made, family, labels, _ = BASES[kind]
    base = made.from_pretrained(tmp_path / "base", **{labels: 9}, ignore_mismatched_sizes=True)
    model = adapt(base)
    model.save_pretrained(tmp_path / "adapted")
    loaded = AdaptiveModel.from_pretrained(None, tmp_path / "adapted")
    inputs = family.inputs(2)
    assert result(loaded, kind, inputs).shape == (2, 9)
    assert torch.equal(result(loaded, kind, inputs), result(model, kind, inputs))


def test_what_is_recorded_is_plain_json_and_no_weights(tmp_path: Path) -> None:
    base = saved_base("vit", tmp_path / "base")
    record = json.loads(json.dumps(record_of(base)))
    assert type(base.config).from_dict(record["config"]).to_diff_dict() == base.config.to_diff_dict()
    assert (record["library"], record["class"]) == ("transformers", "ViTForImageClassification")
    assert (record["name"], record["dtype"]) == (str(tmp_path / "base"), "float32")


def test_a_model_without_a_checkpoint_is_asked_for(tmp_path: Path) -> None:
    base = TINY["bert"].build()
    adapt_and_save(base, tmp_path)
    with pytest.raises(
        UserError, match=r"BertModel of which no folder and no hub id is known. Load the base yourself and"
    ):
        AdaptiveModel.from_pretrained(None, tmp_path)


def adapt_and_save(base: nn.Module, folder: Path) -> None:
    get_adaptive_model(base, AdaptiveConfig(policy=POLICY)).save_pretrained(folder)


def test_a_vlbert_that_started_from_a_bert_is_asked_for(tmp_path: Path) -> None:
    """The folder of the BERT holds only half of it."""
    TINY["bert"].build().save_pretrained(tmp_path / "bert")
    facts = DataFacts(["yes", "no"], visual_feat_dim=8, vocab_size=TINY["bert"].config().vocab_size, mask_token_id=4)
    base = build_base(ModelConfig(name=str(tmp_path / "bert"), type="vl_bert"), facts)
    adapt_and_save(base, tmp_path / "adapted")
    with pytest.raises(UserError, match=r"VLBertForQuestionAnswering of which no folder .* Load the base yourself"):
        AdaptiveModel.from_pretrained(None, tmp_path / "adapted")


@pytest.mark.parametrize("name", ["vqa-best.model", "model_LXRT.pth"])
def test_a_base_from_an_original_file_is_asked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"weights")
    base = TINY["vl_bert"].build()
    base.config.name_or_path = str(tmp_path / name)
    adapt_and_save(base, tmp_path)
    told = rf"the base model was read from '.*{name}', a file of an original project\. Load the base yourself"
    with pytest.raises(UserError, match=told):
        AdaptiveModel.from_pretrained(None, tmp_path)


class OwnBert(BertModel):
    """A class of somebody's own."""


class Wrapped(nn.Module):
    """No transformers model, around one."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert


@pytest.mark.parametrize("wrap", [lambda bert: OwnBert(bert.config), Wrapped], ids=["own class", "no transformers"])
def test_a_class_that_is_not_known_is_asked_for(wrap: Any, tmp_path: Path) -> None:
    base = wrap(TINY["bert"].build())
    adapt_and_save(base, tmp_path)
    told = rf"{type(base).__name__} of '.*', which is not known here. Load the base yourself"
    with pytest.raises(UserError, match=told):
        AdaptiveModel.from_pretrained(None, tmp_path)


@pytest.mark.parametrize(
    "name", ["AutoModel", "pipeline", "__name__", "BertConfig", "PreTrainedModel", "ViTPreTrainedModel", "nothing"]
)
def test_only_models_are_made_from_a_record(name: str) -> None:
    """A file from elsewhere cannot have anything else called."""
    record = {"library": "transformers", "class": name, "name": "base", "revision": None, "dtype": "x", "config": {}}
    with pytest.raises(UserError, match="which is not known here"):
        load_recorded(record)


def test_a_checkpoint_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    model = adapt(saved_base("vit", tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapted")
    saved_base("vit", tmp_path / "base")
    with pytest.raises(UserError, match="the base model differs: its frozen weights are not those"):
        AdaptiveModel.from_pretrained(None, tmp_path / "adapted")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"model folder '.*base' does not exist .*\. Load the base yourself"):
        AdaptiveModel.from_pretrained(None, tmp_path / "adapted")
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match=r"cannot load the model '.*base', read as a folder: .*Load the base yourself"):
        AdaptiveModel.from_pretrained(None, tmp_path / "adapted")


def edit(folder: Path, **entries: Any) -> None:
    """Change entries of `adaptive_config.json` as a person does in an editor; None takes one of the base away."""
    file = folder / "adaptive_config.json"
    description = json.loads(file.read_text())
    base = {**description["base_model"], **entries.pop("base_model", {})}
    description["base_model"] = {name: value for name, value in base.items() if value is not None}
    file.write_text(json.dumps({**description, **entries}))


def test_a_record_without_a_revision_is_that_of_no_revision(tmp_path: Path) -> None:
    adapt(saved_base("vit", tmp_path / "base")).save_pretrained(tmp_path / "adapted")
    edit(tmp_path / "adapted", base_model={"revision": None})
    assert "revision" not in json.loads((tmp_path / "adapted/adaptive_config.json").read_text())["base_model"]
    assert isinstance(AdaptiveModel.from_pretrained(None, tmp_path / "adapted").base, ViTForImageClassification)


@pytest.mark.parametrize("given", [True, False], ids=["base given", "base recorded"])
@pytest.mark.parametrize("config", [{"hidden_size": "a"}, {"id2label": 5}, {"layer_norm_eps": {}}], ids=str)
def test_a_recorded_configuration_that_cannot_be_read_is_told(
    given: bool, config: dict[str, Any], tmp_path: Path
) -> None:
    base = saved_base("vit", tmp_path / "base")
    twin = copy.deepcopy(base)
    adapt(base).save_pretrained(tmp_path / "adapted")
    edit(tmp_path / "adapted", base_model={"config": {**record_of(twin)["config"], **config}})
    told = r"'base_model' in adaptive_config\.json holds a config that cannot be read: .*take the file as"
    with pytest.raises(UserError, match=told) as caught:
        AdaptiveModel.from_pretrained(twin if given else None, tmp_path / "adapted")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [{"num_attention_heads": 0}, {"patch_size": 0}], ids=str)
def test_a_recorded_configuration_that_makes_no_model_is_told(config: dict[str, Any], tmp_path: Path) -> None:
    base = saved_base("vit", tmp_path / "base")
    recorded = {**record_of(base)["config"], **config}
    adapt(base).save_pretrained(tmp_path / "adapted")
    edit(tmp_path / "adapted", base_model={"config": recorded})
    with pytest.raises(UserError, match=r"cannot load the model '.*base', read as a folder: .*Load the base yourself"):
        AdaptiveModel.from_pretrained(None, tmp_path / "adapted")
