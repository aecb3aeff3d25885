"""Fused attention in LXMERT: the same results, gradients, weights and probabilities as transformers' own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import LxmertConfig, LxmertModel
from transformers.models.lxmert.modeling_lxmert import LxmertAttention

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.models import lxmert_attention, use_sdpa
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.models.lxmert_attention import SdpaLxmertAttention

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "l_layers": 2,
    "r_layers": 1,
    "x_layers": 2,
    "visual_feat_dim": 16,
}
NUM_ATTENTIONS = 2 + 1 + 3 * 2
SAMPLES, TOKENS, REGIONS = 3, 5, 7


def lxmert(attention_dropout: float = 0.0) -> LxmertModel:
    return LxmertModel(LxmertConfig(**SIZES, attention_probs_dropout_prob=attention_dropout)).eval()


def inputs(last_tokens: int = 1, last_regions: int = 1) -> dict[str, Tensor]:
    """A batch whose first sample is whole; the second is padded, the third but for so many tokens and regions."""
    attention_mask, visual_attention_mask = torch.ones(SAMPLES, TOKENS), torch.ones(SAMPLES, REGIONS)
    attention_mask[1, 2:] = visual_attention_mask[1, 4:] = 0
    attention_mask[2, last_tokens:] = visual_attention_mask[2, last_regions:] = 0
    return {
        "input_ids": torch.randint(1, SIZES["vocab_size"], (SAMPLES, TOKENS)),
        "visual_feats": torch.randn(SAMPLES, REGIONS, SIZES["visual_feat_dim"]),
        "visual_pos": torch.rand(SAMPLES, REGIONS, 4),
        "attention_mask": attention_mask,
        "visual_attention_mask": visual_attention_mask,
    }


def fused_copy(model: nn.Module) -> nn.Module:
    fused = copy.deepcopy(model)
    assert use_sdpa(fused) == NUM_ATTENTIONS
    return fused


def test_outputs_and_gradients_are_those_of_transformers() -> None:
    plain, batch = lxmert(), inputs()
    fused = fused_copy(plain)
    # Not the squares: what a LayerNorm returns has a constant sum of squares, hence no gradient.
    language_grad, region_grad = torch.randn(SAMPLES, TOKENS, 32), torch.randn(SAMPLES, REGIONS, 32)
    results = {}
    for name, model in (("plain", plain), ("fused", fused)):
        results[name] = output = model(**batch)
        torch.autograd.backward((output.language_output, output.vision_output), (language_grad, region_grad))
    for field in ("language_output", "vision_output", "pooled_output"):
        torch.testing.assert_close(results["fused"][field], results["plain"][field], rtol=1e-5, atol=1e-5)
    gradients = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    assert any(".key." in name for name in gradients)
    for name, gradient in gradients.items():
        difference = fused.get_parameter(name).grad - gradient
        # A key's bias shifts all scores of a row alike: its true gradient is zero.
        assert difference.norm() <= 1e-5 * max(gradient.norm(), 1), name


def test_a_sample_of_padding_alone() -> None:
    plain, batch = lxmert(), inputs(last_tokens=0, last_regions=0)
    expected, found = plain(**batch), fused_copy(plain)(**batch)
    torch.testing.assert_close(found.language_output, expected.language_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.vision_output, expected.vision_output, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_row_with_nothing_to_attend_to() -> None:
    fused = SdpaLxmertAttention(LxmertAttention(LxmertConfig(**SIZES)).eval())
    hidden, context = torch.randn(1, TOKENS, 32, requires_grad=True), torch.randn(1, REGIONS, 32)
    mask = torch.full((1, 1, 1, REGIONS), torch.finfo(torch.float32).min)
    (output,) = fused(hidden, context, mask)
    (expected,) = torch.autograd.grad(fused.value(context).mean(1).sum() * TOKENS, fused.value.weight)
    output.sum().backward()
    torch.testing.assert_close(fused.value.weight.grad, expected, rtol=1e-5, atol=1e-5)
    assert not fused.query.weight.grad.any()
    assert not fused.key.weight.grad.any()


@pytest.mark.parametrize("masked", ["nothing", "some", "everything"])
@pytest.mark.parametrize("autocast", [False, True])
def test_one_attention_over_another_length(masked: str, autocast: bool) -> None:
    attention = LxmertAttention(LxmertConfig(**SIZES)).eval()
    fused = SdpaLxmertAttention(attention)
    hidden, context = torch.randn(SAMPLES, TOKENS, 32), torch.randn(SAMPLES, REGIONS, 32)
    num_masked = {"nothing": 0, "some": 3, "everything": REGIONS}[masked]
    mask = torch.zeros(SAMPLES, 1, 1, REGIONS)
    mask[..., REGIONS - num_masked :] = torch.finfo(torch.float32).min
    with torch.autocast("cpu", enabled=autocast):
        (plain_output,), (fused_output,) = attention(hidden, context, mask), fused(hidden, context, mask)
    assert fused_output.dtype == plain_output.dtype
    tolerance = 2e-2 if autocast else 1e-5
    torch.testing.assert_close(fused_output, plain_output, rtol=tolerance, atol=tolerance)


def test_without_a_mask() -> None:
    attention = LxmertAttention(LxmertConfig(**SIZES)).eval()
    hidden, context = torch.randn(SAMPLES, TOKENS, 32), torch.randn(SAMPLES, REGIONS, 32)
    torch.testing.assert_close(
        SdpaLxmertAttention(attention)(hidden, context), attention(hidden, context), rtol=1e-5, atol=1e-5
    )


def test_dropout_in_training_only() -> None:
    fused = SdpaLxmertAttention(LxmertAttention(LxmertConfig(**SIZES, attention_probs_dropout_prob=0.5)))
    hidden = torch.randn(SAMPLES, TOKENS, 32)
    assert not torch.equal(fused(hidden, hidden)[0], fused(hidden, hidden)[0])
    fused.eval()
    assert torch.equal(fused(hidden, hidden)[0], fused(hidden, hidden)[0])


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_form_is_given_the_dropout(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def attention_of(query: Tensor, *_: Tensor, dropout_p: float, **__: Tensor) -> Tensor:
        given.append(dropout_p)
        return query

    monkeypatch.setattr(lxmert_attention, "scaled_dot_product_attention", attention_of)
    fused = SdpaLxmertAttention(LxmertAttention(LxmertConfig(**SIZES, attention_probs_dropout_prob=0.5)))
    hidden = torch.randn(SAMPLES, TOKENS, 32, device="meta")  # a CPU never runs the fused form under dropout
    fused.to("meta").train(training)(hidden, hidden)
    assert given == [0.5 if training else 0.0]


def test_weights_keep_their_names_and_identity() -> None:
    model = lxmert()
    before = dict(model.named_parameters())
    use_sdpa(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert use_sdpa(model) == 0


def test_attention_probabilities_are_those_of_transformers() -> None:
    plain, batch = lxmert(), inputs()
    fused = fused_copy(plain)
    for field in ("language_attentions", "vision_attentions", "cross_encoder_attentions"):
        expected = plain(**batch, output_attentions=True)[field]
        found = fused(**batch, output_attentions=True)[field]
        assert len(found) == len(expected) > 0
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gated_projections_run_inside() -> None:
    plain = lxmert()
    batch = inputs()
    adapted = get_adaptive_model(fused_copy(plain), AdaptiveConfig()).eval()
    expected = plain(**batch).pooled_output
    torch.testing.assert_close(adapted(**batch, policy="frozen").pooled_output, expected, rtol=1e-5, atol=1e-5)
    for name, weight in adapted.named_parameters():
        if ".key.delta_weight" in name:
            nn.init.normal_(weight)
    changed = adapted(**batch, policy="tuned").pooled_output
    assert (changed - expected).abs().max() > 1e-3


def test_our_bases_are_fused_and_a_users_model_is_left_alone() -> None:
    sizes = ModelConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, language_layers=2)
    base = build_base(sizes, DataFacts(list("abcde"), 16, 40))
    own = get_adaptive_model(lxmert(), AdaptiveConfig()).base
    assert {type(module) for module in base.modules() if isinstance(module, LxmertAttention)} == {SdpaLxmertAttention}
    assert {type(module) for module in own.modules() if isinstance(module, LxmertAttention)} == {LxmertAttention}
