"""VL-BERT as a Hugging Face model: sizes, masks, the answer's place, loss, files."""

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering, VLBertModel

TEXT = ("input_ids", "attention_mask", "token_type_ids")


def count(config: VLBertConfig) -> tuple[int, int]:
    """Parameters of the encoder, and of everything else."""
    with torch.device("meta"):
        model = VLBertForQuestionAnswering(config)
    encoder = sum(parameter.numel() for parameter in model.vlbert.encoder.parameters())
    return encoder, sum(parameter.numel() for parameter in model.parameters()) - encoder


def test_parameters_at_base_size_are_the_published_ones() -> None:
    """115.0 M in all, of which 85.1 M in the encoder and 30.0 M outside."""
    assert count(VLBertConfig.base()) == (85_054_464, 29_987_385)


@pytest.mark.parametrize(("decisions", "parameters"), [(180, 34_164_328), (12, 33_905_944)])
def test_the_originals_policy_is_a_shrunk_vl_bert(decisions: int, parameters: int) -> None:
    """34.2 M for SpotTune, 33.9 M for one decision per block: two layers with FFNs of 512."""
    config = VLBertConfig.base(num_hidden_layers=2, intermediate_size=512, num_answers=2 * decisions)
    assert sum(count(config)) == parameters


def test_large_size_is_that_of_bert_large() -> None:
    config = VLBertConfig.large(num_answers=10)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (24, 1024, 16)
    assert count(config)[0] == 302_309_376


def test_shapes(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    output = model(**batch, output_hidden_states=True)
    assert output.question_answering_score.shape == (3, 7)
    assert output.loss is None
    assert [hidden.shape for hidden in output.hidden_states] == [(3, 14, 32)] * 3
    assert model(**batch, return_dict=False)[0].equal(output.question_answering_score)


def test_attention_is_over_the_real_places_of_a_row(
    model: VLBertForQuestionAnswering, batch: dict[str, Tensor]
) -> None:
    model.set_attn_implementation("eager")
    for attention in model(**batch, output_attentions=True).attentions:
        assert attention.shape == (3, 4, 14, 14)
        for sample, length in enumerate((14, 9, 10)):
            assert (attention[sample, ..., :length] > 0).all()
            assert not attention[sample, ..., length:].any()


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_attention_that_keeps_no_probabilities_cannot_be_asked_for_them(
    model: VLBertForQuestionAnswering, batch: dict[str, Tensor], attention: str
) -> None:
    """By the option as by the configuration, which takes it before the attention is chosen."""
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    model.set_attn_implementation(attention)
    told = rf"'{attention}' attention keeps no probabilities: .*set_attn_implementation\('eager'\)"
    with pytest.raises(ValueError, match=told):
        model(**batch)
    model.config.output_attentions = False
    with pytest.raises(ValueError, match=told):
        model(**batch, output_attentions=True)
    with pytest.raises(ValueError, match=told):
        model.vlbert(**batch, output_attentions=True)


def test_a_text_longer_than_the_positions_is_refused(config: VLBertConfig, batch: dict[str, Tensor]) -> None:
    """Real tokens count, and the regions' place and [END]'s after them."""
    VLBertForQuestionAnswering(VLBertConfig(**{**config.to_dict(), "max_position_embeddings": 10}))(**batch)
    short = VLBertForQuestionAnswering(VLBertConfig(**{**config.to_dict(), "max_position_embeddings": 9}))
    with pytest.raises(ValueError, match="sample 0 has 8 tokens, and there are 9 positions: cut texts at 7"):
        short(**batch)
    batch["attention_mask"][0, 0] = 0
    short(**batch)


def test_a_picture_without_any_region_is_refused(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    none = {name: value if name in TEXT else value[:, :0] for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"visual_feats \[3, 0, 16\] hold no region: give at least region 0"):
        model(**none)


def test_a_misspelt_input_is_refused(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    with pytest.raises(TypeError, match="visual_mask"):
        model(**batch, visual_mask=batch["visual_attention_mask"])


def test_the_answer_is_read_at_the_mask(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    output = model.vlbert(**batch)
    for sample, place in enumerate((6, 3, 4)):
        assert output.pooler_output[sample].equal(output.last_hidden_state[sample, place])
    expected = model.answer_head(output.pooler_output)
    assert model(**batch).question_answering_score.equal(expected)


def test_of_two_masks_the_last_real_one_answers(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    batch["input_ids"][0, 2] = batch["input_ids"][1, 5] = model.config.mask_token_id
    output = model.vlbert(**batch)
    assert output.pooler_output[0].equal(output.last_hidden_state[0, 6])
    assert output.pooler_output[1].equal(output.last_hidden_state[1, 3])


def test_a_text_without_a_mask_is_refused(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    batch["input_ids"][1, 3] = 12
    with pytest.raises(ValueError, match=r"1 of 3 texts, the first is sample 1, hold no token 3, .*mask_token_id"):
        model(**batch)


def test_options_left_open_are_the_configurations(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    """As transformers' own models with a head."""
    expected = model(**batch)
    model.config.output_hidden_states = True
    assert len(model(**batch).hidden_states) == 3
    assert model(**batch, output_hidden_states=False).hidden_states is None
    model.config.return_dict = False
    logits, hidden = model(**batch)
    assert logits.equal(expected.question_answering_score)
    assert len(hidden) == 3
    assert model(**batch, return_dict=True).question_answering_score.equal(logits)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mask_token_id": 40}, "mask_token_id is 40, but the vocabulary has words 0 to 39"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2; it must be at least 3"),
        ({"visual_pos_dim": 6}, "visual_pos_dim is 6; a box has 4 values"),
    ],
)
def test_sizes_no_model_can_have_are_refused(config: VLBertConfig, options: dict[str, int], told: str) -> None:
    with pytest.raises(StrictDataclassError, match=told):
        VLBertConfig(**{**config.to_dict(), **options})


def plain_layer(layer: nn.Module, x: Tensor, heads: int) -> Tensor:
    """One post-norm layer on the tokens [T, E] of one sample."""
    attention = layer.attention.self
    size = x.shape[1] // heads
    contexts = []
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (
            x @ role.weight[rows].T + role.bias[rows] for role in (attention.query, attention.key, attention.value)
        )
        contexts.append((query @ key.T / size**0.5).softmax(dim=1) @ value)
    output = layer.attention.output
    middle = output.LayerNorm(x + output.dense(torch.cat(contexts, dim=1)))
    inner = layer.intermediate.dense(middle)
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    return layer.output.LayerNorm(middle + layer.output.dense(inner))


def test_answers_are_those_of_plain_layers(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    found = model(**batch).question_answering_score
    rows, mask, _ = model.vlbert.embeddings(
        *(batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")),
        *(batch[name] for name in ("visual_feats", "visual_pos", "visual_attention_mask")),
    )
    head = model.answer_head
    for sample, place in enumerate((6, 3, 4)):
        x = rows[sample, mask[sample]]
        for layer in model.vlbert.encoder.layer:
            x = plain_layer(layer, x, heads=4)
        inner = head.transform.dense(x[place])
        inner = head.transform.LayerNorm(inner * (1 + torch.erf(inner / 2**0.5)) / 2)
        torch.testing.assert_close(found[sample], head.classifier(inner), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_never_changes_the_answer(
    model: VLBertForQuestionAnswering, batch: dict[str, Tensor], attention: str
) -> None:
    """A sample alone, without its padding, answers as in the batch; what stands in the padding does not matter."""
    model.set_attn_implementation(attention)
    expected = model(**batch).question_answering_score
    assert (expected[0] - expected[1]).abs().max() > 0.1
    for sample in range(3):
        words = batch["attention_mask"][sample].bool()
        regions = batch["visual_attention_mask"][sample].bool()
        alone = {
            name: value[sample : sample + 1, words if name in TEXT else regions]
            for name, value in batch.items()
            if "attention_mask" not in name
        }
        found = model(**alone).question_answering_score
        torch.testing.assert_close(found, expected[sample : sample + 1], rtol=1e-4, atol=1e-4)
    dirty = dict(batch)
    dirty["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 3)
    padding = ~batch["visual_attention_mask"].bool().unsqueeze(-1)
    dirty["visual_feats"] = batch["visual_feats"].masked_fill(padding, 9.0)
    dirty["visual_pos"] = batch["visual_pos"].masked_fill(padding, -2.0)
    torch.testing.assert_close(model(**dirty).question_answering_score, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without")
def test_flex_attention_gives_the_same_answer(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    """Without gradients, which it has on a GPU only, and as written: compiling it takes longer than all tests here."""
    model.requires_grad_(False)
    expected = model(**batch).question_answering_score
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        found = model(**batch).question_answering_score
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_regions_are_a_set_but_for_the_first(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    """All regions have one position; the first is shown by every word."""
    expected = model(**batch).question_answering_score

    def reordered(order: list[int]) -> Tensor:
        moved = {name: value if name in TEXT else value[:, order] for name, value in batch.items()}
        return model(**moved).question_answering_score

    torch.testing.assert_close(reordered([0, 4, 2, 1, 3]), expected, rtol=1e-4, atol=1e-4)
    assert (reordered([2, 1, 0, 3, 4]) - expected).abs().max() > 1e-2


def test_loss_is_the_originals(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    labels = torch.rand(3, 7)
    output = model(**batch, labels=labels)
    chance = output.question_answering_score.sigmoid()
    expected = -(labels * chance.log() + (1 - labels) * (1 - chance).log()).mean() * 7
    torch.testing.assert_close(output.loss, expected)


def test_every_weight_has_a_gradient(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    model(**batch, labels=torch.rand(3, 7)).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert without == []


def test_one_graph_to_the_compiler(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    """No shape depends on a value, so nothing has to be read back from the device."""
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(**batch).question_answering_score.equal(model(**batch).question_answering_score)


def test_saved_and_loaded(model: VLBertForQuestionAnswering, batch: dict[str, Tensor], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded, report = VLBertForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert loaded(**batch).question_answering_score.equal(model(**batch).question_answering_score)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), VLBertConfig)
    backbone = AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is VLBertModel
    assert backbone(**batch).pooler_output.equal(model.vlbert(**batch).pooler_output)


def test_weights_a_file_lacks_start_as_in_a_new_model(config: VLBertConfig, tmp_path: Path) -> None:
    config.visual_scale_init = 0.25
    model = VLBertModel(config)
    weights = {name: value for name, value in model.state_dict().items() if "visual_text" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded = VLBertModel.from_pretrained(tmp_path)
    assert (loaded.embeddings.visual_text.LayerNorm.weight == 0.25).all()
