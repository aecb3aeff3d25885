"""A merged model is one of its library and nothing else: same outputs, no trace of ours, and read where we are not
installed.

Mirrors no single module: adapt, decider, wrapping and the leaves hold this together. Shape suffixes: B batch,
D decisions.
"""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LxmertForQuestionAnswering, PreTrainedModel, ViTForImageClassification

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.errors import UserError
from adaptive_ft.models import use_sdpa
from adaptive_ft.models.vlbert import VLBertForQuestionAnswering
from adaptive_ft.wrapping import INITIALISED
from tests.models.tiny_families import LXMERT, TINY

POLICY = PolicyConfig(embedding_size=4, hidden_size=8)
FORCED = ("tuned", "frozen", "global", "tensor")
RANK = 2
# Reads merged models as somebody does who has never heard of us.
STRANGER = """
import sys
from pathlib import Path

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("adaptive_ft"):
            raise ModuleNotFoundError(f"no module named {name}")

sys.meta_path.insert(0, NotInstalled())
for name in ("adaptive_ft", "adaptive_ft_kernels"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is here")

import torch
import transformers

for folder in Path(sys.argv[1]).iterdir():
    config = transformers.AutoConfig.from_pretrained(folder)
    (name,) = config.architectures
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    inputs, expected = torch.load(folder / "expected.pt")
    with torch.no_grad():
        found = model.eval()(**inputs)
    torch.testing.assert_close(found[expected[0]], expected[1], rtol=0, atol=1e-6)
    print(folder.name, name)
"""


def vit() -> ViTForImageClassification:
    config = TINY["vit"].config()
    config.num_labels = 5
    return ViTForImageClassification(config)


def vl_bert() -> VLBertForQuestionAnswering:
    config = TINY["vl_bert"].config()
    config.num_answers = 5
    return VLBertForQuestionAnswering(config)


def lxmert() -> LxmertForQuestionAnswering:
    config = LXMERT.config()
    config.num_qa_labels = 5
    model = LxmertForQuestionAnswering(config)
    use_sdpa(model)  # as our own loader does; a merged model must not show it
    return model


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[int], dict[str, Tensor]], str]] = {
    "vit": (vit, TINY["vit"].inputs, "logits"),
    "vl_bert": (vl_bert, TINY["vl_bert"].inputs, "question_answering_score"),
    "lxmert": (lxmert, LXMERT.inputs, "question_answering_score"),
}
CASES = [
    pytest.param(family, forced, rank, id=f"{family}-{forced}" + (f"-rank{rank}" if rank else ""))
    for family in MODELS
    for forced, rank in (*((word, None) for word in FORCED), ("tuned", RANK), ("tensor", RANK))
]


def build(family: str) -> Any:
    """A tiny model of the family whose weights are large enough that every component matters."""
    model = MODELS[family][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def adapt(base: nn.Module, strategy: str = "spottune", rank: int | None = None) -> AdaptiveModel:
    """An adapted copy of `base`, in evaluation mode, that has learned something everywhere."""
    model = get_adaptive_model(copy.deepcopy(base), AdaptiveConfig(strategy, policy=POLICY, delta_rank=rank)).eval()
    with torch.no_grad():
        for group, members in model.parameter_groups().items():
            for _, parameter in members if group != "policy" else ():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def result(model: nn.Module, family: str, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs, **options)[MODELS[family][2]]
    return found


def merged_as(family: str, forced: str, rank: int | None) -> tuple[Any, dict[str, Tensor], Tensor]:
    """The merged model, inputs, and what the adapted model gave for them under the same forced decision."""
    model, inputs = adapt(build(family), rank=rank), MODELS[family][1](4)
    decision_D = torch.randint(0, 2, (len(model.decisions),))
    if forced == "global":
        model.global_decisions = decision_D
    policy = decision_D.expand(4, -1) if forced == "tensor" else forced
    expected = result(model, family, inputs, policy=policy)
    return model.merge_and_unload(decision_D if forced == "tensor" else forced), inputs, expected


def without_a_layer(family: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    """As `merged_as` under BlockDrop, where the second layer is skipped."""
    model, inputs = adapt(build(family), "blockdrop"), MODELS[family][1](4)
    decision_D = (torch.arange(len(model.decisions)) != 1).float()
    expected = result(model, family, inputs, policy=decision_D.expand(4, -1))
    return model.merge_and_unload(decision_D), inputs, expected


@pytest.mark.parametrize(("family", "forced", "rank"), CASES)
def test_a_merged_model_is_the_forced_one(family: str, forced: str, rank: int | None) -> None:
    merged, inputs, expected = merged_as(family, forced, rank)
    torch.testing.assert_close(result(merged, family, inputs), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_decisions_are_merged_and_not_one_half(family: str) -> None:
    """The guard of the table above: the halves differ, and a mixed decision is neither."""
    model, inputs = adapt(build(family)), MODELS[family][1](4)
    mixed_BD = (torch.arange(len(model.decisions)) % 2).expand(4, -1)
    halves = [result(model, family, inputs, policy=policy) for policy in ("frozen", "tuned", mixed_BD)]
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(halves, halves[1:] + halves[:1], strict=True))


@pytest.mark.parametrize("way", ["merge", "unload"])
@pytest.mark.parametrize("rank", [None, RANK], ids=["full", "low_rank"])
@pytest.mark.parametrize("family", MODELS)
def test_nothing_of_ours_stays(family: str, rank: int | None, way: str) -> None:
    """Same classes, attributes of every module, config, names and hooks as the model that was never adapted."""
    base = build(family)
    model = adapt(base, rank=rank)
    plain: Any = model.merge_and_unload("tuned") if way == "merge" else model.unload()
    untouched = type(base)(base.config).eval()
    for (name, expected), (found_name, found) in zip(untouched.named_modules(), plain.named_modules(), strict=True):
        assert (found_name, type(found)) == (name, type(expected))
        own = ["adaptive_ft.models.vlbert."] if family == "vl_bert" else []
        assert type(found).__module__.startswith(("torch.", "transformers.", *own)), name
        assert vars(found).keys() ^ vars(expected).keys() <= {INITIALISED}, name
        assert not found._forward_hooks, name
        assert not found._forward_pre_hooks, name
    assert plain.state_dict().keys() == untouched.state_dict().keys()
    assert plain.config.to_dict() == untouched.config.to_dict()
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in plain.parameters())


USES: dict[str, Callable[[AdaptiveModel], object]] = {
    "forward": lambda model: model(**MODELS["vit"][1](2)),
    "save_pretrained": lambda model: model.save_pretrained("nowhere"),
    "push_to_hub": lambda model: model.push_to_hub("someone/nothing"),
    "adaptive_state_dict": lambda model: model.adaptive_state_dict(),
    "frozen_hash": lambda model: model.frozen_hash(),
    "merge_and_unload": lambda model: model.merge_and_unload("frozen"),
    "unload": lambda model: model.unload(),
    "disable_adapter": lambda model: model.disable_adapter().__enter__(),
    "print_trainable_parameters": lambda model: model.print_trainable_parameters(),
    "parameter_groups": lambda model: model.parameter_groups(),
    "get_policy_log": lambda model: model.get_policy_log(),
    "get_latest_gates": lambda model: model.get_latest_gates(),
    "decisions": lambda model: model.decisions,
    "global_decisions": lambda model: setattr(model, "global_decisions", None),
    "adapting it again": lambda model: get_adaptive_model(model),
    "base": lambda model: model.base,
    "policy": lambda model: model.policy,
}


@pytest.mark.parametrize("way", ["merge", "unload"])
def test_what_is_left_of_a_merged_model_refuses_every_use(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And holds no weights, so that nothing reads or trains those of the model that was given out."""
    monkeypatch.chdir(tmp_path)
    model = adapt(build("vit"))
    plain: Any = model.merge_and_unload("tuned") if way == "merge" else model.unload()
    for use in USES.values():
        with pytest.raises(UserError, match="unloaded; use the model that merge_and_unload or unload returned"):
            use(model)
    assert not list(tmp_path.iterdir())
    assert not model.state_dict()
    assert plain(**MODELS["vit"][1](2)).logits.shape == (2, 5)
    again = get_adaptive_model(plain, AdaptiveConfig(policy=POLICY))
    assert again(**MODELS["vit"][1](2)).gates.shape == (2, len(again.decisions))


@pytest.mark.parametrize("family", MODELS)
def test_transformers_does_not_take_the_weights_for_new_ones(family: str) -> None:
    """`init_weights`, which every post_init around the model calls, gives random weights to what is not marked."""
    model = adapt(build(family))
    for made in (model.base, model.merge_and_unload("tuned")):
        before = {name: value.clone() for name, value in made.state_dict().items()}
        made.init_weights()
        assert [name for name, value in made.state_dict().items() if not torch.equal(value, before[name])] == []


@pytest.mark.parametrize("forced", [None, "network"])
def test_a_policy_per_input_needs_a_decision(forced: str | None) -> None:
    model = adapt(build("vit"))
    told = r"'spottune' decides per input, so it cannot be merged .* 'frozen', 'tuned', 'global' or a tensor of 15 zer"
    kind: type[Exception] = UserError if forced is None else ValueError
    with pytest.raises(kind, match=told if forced is None else "policy 'network' is unknown"):
        model.merge_and_unload(forced)
    with pytest.raises(UserError, match="there is no global decision yet"):
        model.merge_and_unload("global")
    inputs = MODELS["vit"][1](2)
    assert result(model, "vit", inputs).shape == (2, 5), "a refusal leaves the adapted model whole"


@pytest.mark.launch
def test_merged_models_are_read_where_we_are_not_installed(tmp_path: Path, environment: dict[str, str]) -> None:
    """Every merged ViT and LXMERT, loaded and run by a process that cannot import us and stands elsewhere."""
    folders, told = tmp_path / "merged", set()
    for family, name in (("vit", "ViTForImageClassification"), ("lxmert", "LxmertForQuestionAnswering")):
        own = {str(case.id): case.values for case in CASES if case.values[0] == family}
        made = {case: merged_as(*values) for case, values in own.items()}  # type: ignore[arg-type]
        made[f"{family}-blockdrop"] = without_a_layer(family)
        for case, (merged, inputs, expected) in made.items():
            merged.save_pretrained(folders / case)
            torch.save((inputs, (MODELS[family][2], expected)), folders / case / "expected.pt")
            told.add(f"{case} {name}")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folders)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == told
