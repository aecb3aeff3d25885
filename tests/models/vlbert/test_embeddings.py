"""VL-BERT's input row against plain loops: coordinates, packing, positions, types and what every token shows."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering, VLBertModel
from adaptive_ft.models.vlbert.embeddings import RegionProjection, VLBertEmbeddings, coordinate_waves


def embed(embeddings: VLBertEmbeddings, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return embeddings(
        batch["input_ids"],
        batch["token_type_ids"],
        batch["attention_mask"],
        batch["visual_feats"],
        batch["visual_pos"],
        batch["visual_attention_mask"],
    )


def plain_waves(box: list[float], waves: int) -> list[float]:
    x1, y1, x2, y2 = box
    values = [100 * (x1 + x2) / 2, 100 * (y1 + y2) / 2, 100 * (x2 - x1), 100 * (y2 - y1)]
    result = []
    for value in values:
        angles = [value / 1000 ** (j / waves) for j in range(waves)]
        result += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return result


def shown(scale: nn.Module, region: Tensor) -> Tensor:
    """A region through the optional Linear and the LayerNorm or the factor."""
    region = region if scale.dense is None else scale.dense(region)
    return region * scale.scale if scale.LayerNorm is None else scale.LayerNorm(region)


def plain_row(embeddings: VLBertEmbeddings, batch: dict[str, Tensor], sample: int) -> Tensor:
    """The tokens of one sample, one after the other: [real tokens, E]."""
    projection = embeddings.region_projection
    regions = []
    for number in range(batch["visual_feats"].shape[1]):
        waves = torch.tensor(plain_waves(batch["visual_pos"][sample, number].tolist(), projection.waves))
        regions.append(torch.relu(projection.dense(torch.cat([waves, batch["visual_feats"][sample, number]]))))
    tokens, positions, types = [], [], []
    for column, word in enumerate(batch["input_ids"][sample].tolist()):
        if batch["attention_mask"][sample, column]:
            tokens.append(embeddings.word_embeddings.weight[word] + shown(embeddings.visual_text, regions[0]))
            positions.append(len(positions))
            types.append(int(batch["token_type_ids"][sample, column]))
    text = len(tokens)
    for number, region in enumerate(regions):
        if batch["visual_attention_mask"][sample, number]:
            tokens.append(embeddings.region_embedding.weight[0] + shown(embeddings.visual_region, region))
            positions.append(text)
            types.append(2)
    tokens.append(embeddings.end_embedding.weight[0])
    positions.append(text + 1)
    types.append(2)
    row = torch.stack(tokens) + embeddings.position_embeddings.weight[positions]
    return embeddings.LayerNorm(row + embeddings.token_type_embeddings.weight[types])


def test_coordinates_are_sines_then_cosines_of_every_value() -> None:
    boxes = [[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.4, 0.9]]
    expected = torch.tensor([[plain_waves(box, 256) for box in boxes]])
    assert expected.shape == (1, 2, 2048)
    torch.testing.assert_close(coordinate_waves(torch.tensor([boxes]), 256), expected, rtol=0, atol=2e-5)


def test_regions_in_bf16_err_as_rounded_weights_and_features_do(batch: dict[str, Tensor]) -> None:
    """Against float32, at the base size, at most twice the error that the rounding of these alone makes."""
    exact = RegionProjection(VLBertConfig.base(visual_feat_dim=16)).eval()
    feats, boxes, real = batch["visual_feats"], batch["visual_pos"], batch["visual_attention_mask"].bool()
    with torch.no_grad():
        truth = exact(feats, boxes, real)
        rounded = copy.deepcopy(exact).bfloat16()
        least = copy.deepcopy(rounded).float()(feats.bfloat16().float(), boxes, real) - truth
        for given in (feats.bfloat16(), feats):
            found = rounded(given, boxes, real)
            assert found.dtype == torch.bfloat16
            assert (found.float() - truth).norm() < 2 * least.norm()
        off = rounded(feats.bfloat16(), boxes.bfloat16(), real).float() - truth
        assert off.norm() > 2 * least.norm(), "boxes in bfloat16 would err more"


def test_in_training_coordinates_and_features_are_dropped(config: VLBertConfig, batch: dict[str, Tensor]) -> None:
    """All of them here, so that the bias alone is left."""
    config.region_dropout_prob = 1.0
    projection = RegionProjection(config)
    torch.nn.init.uniform_(projection.dense.bias, 1.0, 2.0)
    given = batch["visual_feats"], batch["visual_pos"], torch.ones(3, 5, dtype=torch.bool)
    assert torch.equal(projection(*given), projection.dense.bias.expand(3, 5, 32))
    assert not torch.equal(projection.eval()(*given), projection.dense.bias.expand(3, 5, 32))


@pytest.mark.parametrize("options", [{}, {"visual_size": 24}, {"visual_ln": False}], ids=["plain", "1x1", "factor"])
def test_packed_rows_are_those_of_a_plain_loop(
    config: VLBertConfig, batch: dict[str, Tensor], options: dict[str, object]
) -> None:
    embeddings = VLBertEmbeddings(VLBertConfig(**{**config.to_dict(), **options})).eval()
    with torch.no_grad():
        for parameter in embeddings.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        rows, mask, _ = embed(embeddings, batch)
        assert rows.shape == (3, 8 + 5 + 1, 32)
        for sample, length in enumerate((14, 9, 10)):
            assert mask[sample].tolist() == [True] * length + [False] * (14 - length)
            expected = plain_row(embeddings, batch, sample)
            torch.testing.assert_close(rows[sample, :length], expected, rtol=1e-4, atol=1e-5)


def test_order_names_the_token_of_every_place(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    _, _, order = embed(model.vlbert.embeddings, batch)
    assert order[1, :9].tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 13]
    assert order[2, :10].tolist() == [1, 2, 4, 5, 6, 7, 8, 10, 11, 13]


def test_a_sample_without_regions_is_text_and_end(model: VLBertForQuestionAnswering, batch: dict[str, Tensor]) -> None:
    embeddings = model.vlbert.embeddings
    batch["visual_attention_mask"][1] = 0
    rows, mask, _ = embed(embeddings, batch)
    assert mask[1].sum() == 6
    # A padded whole-picture region shows as zeros.
    first = embeddings.word_embeddings.weight[1] + shown(embeddings.visual_text, torch.zeros(32))
    first = first + embeddings.position_embeddings.weight[0] + embeddings.token_type_embeddings.weight[0]
    torch.testing.assert_close(rows[1, 0], embeddings.LayerNorm(first), rtol=1e-4, atol=1e-5)


def test_a_new_model_is_blind_until_its_visual_scale_opens(config: VLBertConfig, batch: dict[str, Tensor]) -> None:
    embeddings = VLBertModel(config).eval().embeddings
    blind = embed(embeddings, batch)[0]
    assert torch.equal(embed(embeddings, {**batch, "visual_feats": batch["visual_feats"] + 1})[0], blind)
    config.visual_scale_init = 0.5
    embeddings = VLBertModel(config).eval().embeddings
    assert (embeddings.visual_text.LayerNorm.weight == 0.5).all()
    seeing = embed(embeddings, batch)[0]
    assert not torch.equal(embed(embeddings, {**batch, "visual_feats": batch["visual_feats"] + 1})[0], seeing)
