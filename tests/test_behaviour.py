"""The behaviour every adapted model must show: each strategy with each policy goes through the same table.

Shape suffixes: B batch, C components, D decisions, N outputs.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adaptive_ft import AdaptiveConfig, AdaptiveModel, get_adaptive_model
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.policy import PolicyConfig

HEADS = 4
SIZES = ModelConfig(
    hidden_size=32,
    num_attention_heads=HEADS,
    intermediate_size=48,
    language_layers=2,
    region_layers=1,
    cross_layers=2,
    max_position_embeddings=12,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
DECIDED = ("spottune", "spottune_res", "spottune_block", "blockdrop")
CONSTANT = ("standard", "pretrained_frozen", "last_2")
STRATEGIES: dict[str, tuple[int, ...]] = {**dict.fromkeys((*DECIDED, *CONSTANT), ()), "specific_k": (0, 3)}
LOOKING, BLIND = ("light", "mirror"), ("learned", "fixed")
RANK = 3
# Strategy, policy, rank of the deltas (None: full ones).
ROWS: list[tuple[str, str, int | None]] = [
    *((strategy, kind, None) for strategy in STRATEGIES for kind in LOOKING),
    *(("spottune", kind, None) for kind in BLIND),
    *((strategy, "light", RANK) for strategy in STRATEGIES if strategy != "blockdrop"),
]
CASES = [pytest.param(row, id="-".join(str(word) for word in row if word)) for row in ROWS]
# blockdrop has no frozen half: see tests/test_bypass.py.
TWO_HALVES = pytest.mark.parametrize("model", [case for case in CASES if "drop" not in str(case.id)], indirect=True)
SELF = ("self.query", "self.key", "self.value")
# Part of a component's name -> modules inside its layer, written down from the original's description.
STREAM_LAYER = {
    "attention.head": [f"attention.{name}" for name in SELF],
    "attention.output": ["attention.output.dense", "attention.output.LayerNorm"],
    "ffn.in": ["intermediate.dense"],
    "ffn.out": ["output.dense", "output.LayerNorm"],
}
CROSS_LAYER = {
    "cross_attention.head": [f"visual_attention.att.{name}" for name in ("query", "key", "value")],
    "cross_attention.output": ["visual_attention.output.dense", "visual_attention.output.LayerNorm"],
    "language_attention.head": [f"lang_self_att.{name}" for name in SELF],
    "language_attention.output": ["lang_self_att.output.dense", "lang_self_att.output.LayerNorm"],
    "region_attention.head": [f"visn_self_att.{name}" for name in SELF],
    "region_attention.output": ["visn_self_att.output.dense", "visn_self_att.output.LayerNorm"],
    "language_ffn.in": ["lang_inter.dense"],
    "region_ffn.in": ["visn_inter.dense"],
    "language_ffn.out": ["lang_output.dense", "lang_output.LayerNorm"],
    "region_ffn.out": ["visn_output.dense", "visn_output.LayerNorm"],
}
LAYERS = {
    "language.0": ("lxmert.encoder.layer.0", STREAM_LAYER),
    "language.1": ("lxmert.encoder.layer.1", STREAM_LAYER),
    "region.0": ("lxmert.encoder.r_layers.0", STREAM_LAYER),
    "cross.0": ("lxmert.encoder.x_layers.0", CROSS_LAYER),
    "cross.1": ("lxmert.encoder.x_layers.1", CROSS_LAYER),
}


@pytest.fixture(scope="module")
def base() -> nn.Module:
    """A small LXMERT whose weights are large enough that every component matters."""
    torch.manual_seed(1)
    model = build_base(SIZES, DataFacts(list("abcdefg"), 16, 40)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, base: nn.Module) -> AdaptiveModel:
    """One cell of the table, in evaluation mode; deltas are zero."""
    return adapt(base, *request.param)


def adapt(base: nn.Module, strategy: str, kind: Any, rank: int | None) -> AdaptiveModel:
    policy = PolicyConfig(kind, embedding_size=8, hidden_size=16)
    config = AdaptiveConfig(strategy, STRATEGIES[strategy], policy, delta_rank=rank)
    return get_adaptive_model(copy.deepcopy(base), config).eval()


def make_inputs(batch: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    attention_mask = torch.ones(batch, 5)
    attention_mask[1::2, 3:] = 0
    return {
        "input_ids": torch.randint(1, 40, (batch, 5)),
        "attention_mask": attention_mask,
        "visual_feats": torch.randn(batch, 3, 16, dtype=dtype),
        "visual_pos": torch.rand(batch, 3, 4, dtype=dtype),
    }


def learn(model: AdaptiveModel) -> None:
    """Give every delta a value, as training would."""
    with torch.no_grad():
        for _, parameter in model.parameter_groups().get("delta", []):
            parameter.normal_(std=0.2)


def score(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs, **options).question_answering_score


def documented_modules() -> Iterator[tuple[list[str], str]]:
    """(component names, path of a module they share) for the whole small model."""
    for layer, (path, parts) in LAYERS.items():
        for part, modules in parts.items():
            heads = [f".{head}" for head in range(HEADS)] if part.endswith("head") else [""]
            for module in modules:
                yield [f"{layer}.{part}{head}" for head in heads], f"{path}.{module}"


def documented_id(names: list[str], path: str) -> str:
    return f"{names[0].removesuffix('.head.0')}.{path.rpartition('.')[2].replace('LayerNorm', 'norm')}"


def documented_decisions(strategy: str) -> list[str]:
    """The decisions in the order of the original."""
    components = [
        f"{layer}.{part}{head}"
        for layer, (_, parts) in LAYERS.items()
        for part in sorted(parts, key=ORDER.index)
        for head in ([f".{head}" for head in range(HEADS)] if part.endswith("head") else [""])
    ]
    halves = [f"{layer}.{half}" for layer in LAYERS for half in ("attention", "ffn")]
    layers = {"spottune_block": list(LAYERS), "blockdrop": list(LAYERS)}
    return {"spottune": components, "spottune_res": halves, **layers}.get(strategy, [])


ORDER = [
    *("attention.head", "attention.output", "ffn.in", "ffn.out"),
    *("cross_attention.head", "cross_attention.output"),
    *("language_attention.head", "language_attention.output"),
    *("region_attention.head", "region_attention.output", "language_ffn.in", "region_ffn.in"),
    *("language_ffn.out", "region_ffn.out"),
]


class TwoBranch(nn.Module):
    """The reference leaf: both branches computed, mixed linearly by the gates of its components."""

    def __init__(self, frozen: Any, gated: nn.Module, gates_BC: Tensor) -> None:
        super().__init__()
        self.frozen = frozen
        self.gates_BC = gates_BC
        for name, value in gated.named_parameters():
            if name.startswith("delta_"):
                self.register_parameter(name, nn.Parameter(value.detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        delta = self.delta_up @ self.delta_down if hasattr(self, "delta_up") else self.delta_weight
        tuned = {"weight": self.frozen.weight + delta, "bias": self.frozen.bias + self.delta_bias}
        tuned_BSN = torch.func.functional_call(self.frozen, tuned, (x,))
        frozen_BSN = self.frozen(x)
        block = frozen_BSN.shape[-1] // self.gates_BC.shape[1]
        gates_B1N = self.gates_BC.repeat_interleave(block, dim=1).unsqueeze(1)
        return gates_B1N * tuned_BSN + (1 - gates_B1N) * frozen_BSN


def two_branch_reference(model: AdaptiveModel, base: nn.Module, gates_BC: Tensor) -> nn.Module:
    """A plain copy of the base in which every tuned leaf mixes its two branches."""
    reference = copy.deepcopy(base).double()
    columns = {name: column for column, name in enumerate(model.components.names)}
    for names, path in documented_modules():
        gated: Any = model.base.get_submodule(path)
        if hasattr(gated, "delta_bias"):
            gates = gates_BC[:, [columns[name] for name in names]]
            reference.set_submodule(path, TwoBranch(reference.get_submodule(path), gated, gates))
    return reference


def test_frozen_and_untrained_tuned_equal_the_pretrained_model_bit_for_bit(
    model: AdaptiveModel, base: nn.Module
) -> None:
    inputs = make_inputs(6)
    expected = score(base, inputs)
    for policy in model.tying.unit.constants:
        assert torch.equal(score(model, inputs, policy=policy), expected), policy


@TWO_HALVES
def test_disabling_gives_the_pretrained_output_whatever_was_learned(model: AdaptiveModel, base: nn.Module) -> None:
    inputs = make_inputs(6)
    expected = score(base, inputs)
    learn(model)
    with model.disable_adapter():
        assert torch.equal(score(model, inputs), expected)
        assert torch.equal(score(model, inputs, policy="tuned"), expected)
    if model.config.strategy != "pretrained_frozen":
        assert not torch.equal(score(model, inputs, policy="tuned"), expected)


def test_flipping_a_decision_changes_the_output_iff_it_is_live(model: AdaptiveModel) -> None:
    model.double()
    learn(model)
    num_decisions = len(model.decisions)
    one = {name: value[:1] for name, value in make_inputs(2, torch.float64).items()}
    inputs = {name: value.repeat_interleave(num_decisions + 1, dim=0) for name, value in one.items()}
    # Where every cross layer is skipped the region stream does not reach the answer.
    for start in (torch.ones, torch.zeros)[: 2 - (model.config.strategy == "blockdrop")]:
        decisions_BD = start(num_decisions + 1, num_decisions)
        decisions_BD[1:].diagonal().copy_(1 - decisions_BD[1:].diagonal())
        scores_BA = score(model, inputs, policy=decisions_BD)
        changes_D = (scores_BA[1:] - scores_BA[0]).abs().amax(dim=1)
        for decision, live, change in zip(model.decisions, model.tying.live, changes_D.tolist(), strict=True):
            assert change > 1e-6 if live else change < 1e-12, (decision, live, change)


def test_permuting_the_batch_permutes_the_result(model: AdaptiveModel) -> None:
    learn(model)
    inputs, order = make_inputs(6), torch.randperm(6)
    with torch.no_grad():
        straight = model(**inputs)
        permuted = model(**{name: value[order] for name, value in inputs.items()})
    assert torch.equal(permuted.gates, straight.gates[order])
    torch.testing.assert_close(
        permuted.question_answering_score, straight.question_answering_score[order], rtol=1e-4, atol=1e-5
    )


def test_one_step_moves_only_what_trains_and_saving_brings_it_back(
    model: AdaptiveModel, base: nn.Module, tmp_path: Path
) -> None:
    learn(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = model.parameter_groups()
    model.train()
    optimizer = torch.optim.AdamW([parameter for group in groups.values() for _, parameter in group], lr=1e-2)
    model(**make_inputs(6)).question_answering_score.square().sum().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trainable = {name: group for group, members in groups.items() for name, _ in members}
    assert moved <= trainable.keys()
    assert {trainable[name] for name in moved} == groups.keys()
    assert trainable.keys() == model.adaptive_state_dict().keys()

    model.eval().save_pretrained(tmp_path)
    loaded = AdaptiveModel.from_pretrained(copy.deepcopy(base), tmp_path)
    inputs = make_inputs(6)
    assert torch.equal(score(loaded, inputs), score(model, inputs))
    ids = {f"base.{path}": documented_id(names, path) for names, path in documented_modules()}
    frozen = {f"{path}.{kind}" for path in ids for kind in ("weight", "bias") if model.config.strategy != "blockdrop"}
    learned = (name.rpartition(".") for name in model.state_dict().keys() - frozen)
    saved = load_file(tmp_path / "adaptive_model.safetensors").keys()
    assert saved == {f"{ids.get(owner, owner)}.{kind}" for owner, _, kind in learned}


@TWO_HALVES
def test_gradients_equal_the_two_branch_reference(model: AdaptiveModel, base: nn.Module) -> None:
    model.double().holder.gate_grad_fraction = 1  # as many as the reference evaluates
    learn(model)
    decisions_BD = torch.randint(0, 2, (6, len(model.decisions))).double()
    inputs, weights_BA = make_inputs(6, torch.float64), torch.randn(6, 7, dtype=torch.float64)

    def gradients(run: nn.Module, gates_BD: Tensor, **options: Any) -> dict[str, Tensor]:
        features = inputs["visual_feats"].clone().requires_grad_()
        scores = run(**{**inputs, "visual_feats": features}, **options).question_answering_score
        (scores * weights_BA).sum().backward()
        found = {name.removeprefix("base."): value.grad for name, value in run.named_parameters()}
        return {**found, "gates": gates_BD.grad, "features": features.grad, "scores": scores.detach()}

    gates_BD = decisions_BD.clone().requires_grad_()
    ours = gradients(model, gates_BD, policy=gates_BD)
    mirrored_BD = decisions_BD.clone().requires_grad_()
    theirs = gradients(two_branch_reference(model, base, model.tying.expand(mirrored_BD)), mirrored_BD)
    groups = model.parameter_groups()
    trained = [name for group in ("delta", "other", "head") for name, _ in groups.get(group, [])]
    for name in ("scores", "gates", "features", *(name.removeprefix("base.") for name in trained)):
        assert_near(ours[name], theirs[name], name)


def assert_near(found: Tensor | None, reference: Tensor | None, name: str) -> None:
    """Relative error of the whole tensor; no gradient on one side must be no gradient or zero on the other."""
    if found is None or reference is None:
        rest = found if reference is None else reference
        assert rest is None or not rest.any(), name
        return
    # A key bias shifts all scores of a query alike: its true gradient is 0, hence the absolute allowance.
    assert (found - reference).norm() <= 1e-9 * reference.norm() + 1e-13, name


def test_decisions_come_in_the_documented_order(model: AdaptiveModel) -> None:
    assert model.decisions == documented_decisions(model.config.strategy)
