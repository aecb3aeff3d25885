"""adaptive-ft invariance on LXMERT and VL-BERT: the features of regions are varied, the questions stay."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LxmertConfig, LxmertForQuestionAnswering

from adaptive_ft.build import build
from adaptive_ft.cli import run_command
from adaptive_ft.config import load_run_config
from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.measured.inputs import read_examples, varied_inputs
from adaptive_ft.measured.models import Compared, open_compared
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.trainer import Trainer
from tests.conftest import TINY_MODEL

CPU = torch.device("cpu")
LONGEST = 7
LAYERS = {"lxmert": ["region.0", "cross.0", "cross.1", "pooled"], "vl_bert": ["layer.0", "layer.1", "pooled"]}
DEEPER = {"lxmert": ("--model.cross_layers", "2"), "vl_bert": ("--model.layers", "2", "--model.hidden_size", "24")}


@pytest.fixture(scope="module")
def runs(ranks: Ranks, tiny: Callable[..., list[str]]) -> dict[str, RunFolder]:
    """A short run of each family from random weights; the base lies in its folder."""
    found = {}
    for family, more in DEEPER.items():
        sizes = {**TINY_MODEL, "initializer_range": "0.2", "name": "None", "type": family}
        words = [word for name, value in sizes.items() for word in (f"--model.{name}", value)]
        words += ["--task.max_question_length", str(LONGEST)]
        options = tiny(f"invariance-{family}", *words, *more, "--adapt.strategy", "spottune")
        run = build(load_run_config(options), ranks)
        Trainer(run).fit()
        found[family] = run.folder
    return found


@pytest.fixture(scope="module")
def shards(workplace: Path) -> ShardSet:
    return open_set(str(workplace / "world/target/val"), DataConfig())


def opened(run: RunFolder, shards: ShardSet, count: int = 6) -> tuple[Compared, RawBatch]:
    """The fine-tuned model of a run, and examples; of the first only two regions are real."""
    compared = open_compared("fine-tuned", str(run.path), "network", shards)
    examples = read_examples(compared.fit(shards), count)
    examples.box_mask_BN[0, 2:] = False
    examples.features_BND[0, 2:] = 0
    return compared, examples


@pytest.mark.parametrize("family", LAYERS)
def test_a_run_is_compared_with_the_base_in_its_folder(
    family: str, runs: dict[str, RunFolder], workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks that see the regions, and what the answer is read from; searched without bounds."""
    given = {
        "--finetuned": runs[family].path, "--shards": workplace / "world/target/val", "--output": tmp_path / "m",
        "--images": 9, "--iterations": 20, "--step": 0.3, "--batch-size": 5,
    }  # fmt: skip
    words = ["invariance", *(str(word) for pair in given.items() for word in pair), "--both-ways"]
    run_command(words)
    found: dict[str, Any] = json.loads((tmp_path / "m/summary.json").read_text())
    told = capsys.readouterr().out
    assert found["layers"] == LAYERS[family]
    assert all(f"\n{layer}" in told for layer in LAYERS[family])
    assert found["images"] == 9
    assert set(LAYERS[family][:-1]) <= set(found["tuned_share"])
    settings = json.loads((tmp_path / "m/measurement.json").read_text())["settings"]["inversion"]
    assert (settings["low"], settings["high"]) == (None, None)
    # The search comes near: what it found is nearer than where it began, and the model keeps its own invariances.
    after, before = (np.array(found[name]) for name in ("median_residual", "median_starting_residual"))
    # An untrained VL-BERT scales what it sees of a picture by 0: any features are its inversion.
    assert (after < 0.7 * before).all() if family == "lxmert" else not before.any()
    with np.load(tmp_path / "m/matrices.npz") as held, np.load(tmp_path / "m/on-fine-tuned/matrices.npz") as back:
        size = len(LAYERS[family])
        assert held["stir-fine-tuned"].shape == back["stir-pretrained"].shape == (size, size)
        assert np.diagonal(held["rsm-pretrained"]) == pytest.approx(1)
        assert (np.diagonal(held["stir-pretrained"]) > np.diagonal(held["stir-random"]) - 0.05).all()
    assert {"stir.png", "stir-on-fine-tuned.png", "retention_and_usage.png"} <= {
        path.name for path in (tmp_path / "m").iterdir()
    }
    run_command(words)
    assert "inversions" not in capsys.readouterr().out


@pytest.mark.parametrize("family", LAYERS)
def test_what_is_read_is_what_answers_the_examples(family: str, runs: dict[str, RunFolder], shards: ShardSet) -> None:
    """Fed with the examples' own features, in any order, the blocks give what an evaluation's forward gives."""
    compared, examples = opened(runs[family], shards)
    reader = compared.reader(CPU, examples)
    assert list(reader.layers) == LAYERS[family]
    rows = torch.tensor([4, 0, 2])
    restored = restore(runs[family].path)
    inputs = restored.task.collate(examples).to(CPU).inputs
    with torch.no_grad():
        found = reader(varied_inputs(examples)[rows], rows, reader.layers)
        whole = restored.model(**inputs, output_hidden_states=True)
    if family == "lxmert":
        places = {
            "region.0": whole.vision_hidden_states[-3] * examples.box_mask_BN.unsqueeze(2),
            "cross.0": torch.cat(
                [
                    whole.language_hidden_states[-2] * inputs["attention_mask"].unsqueeze(2),
                    whole.vision_hidden_states[-2] * examples.box_mask_BN.unsqueeze(2),
                ],
                dim=1,
            ),
            # No answer is read from the regions behind the last layer.
            "cross.1": whole.language_hidden_states[-1] * inputs["attention_mask"].unsqueeze(2),
        }
    else:
        lengths_N = inputs["attention_mask"].sum(1) + inputs["visual_attention_mask"].sum(1) + 1
        hidden = whole.hidden_states[-1]
        real_NT = torch.arange(hidden.shape[1]) < lengths_N.unsqueeze(1)
        assert not real_NT[0].all()
        places = {"layer.1": hidden * real_NT.unsqueeze(2)}
    for layer, wanted in places.items():
        assert torch.allclose(found[layer], wanted[rows].flatten(1), atol=1e-5)
    head: Any = compared.base
    logits = head.answer_head(found["pooled"])
    assert torch.allclose(logits, restored.task.logits(whole)[rows], atol=1e-5)


@pytest.mark.parametrize("family", LAYERS)
def test_real_regions_are_sought_and_padding_is_not(family: str, runs: dict[str, RunFolder], shards: ShardSet) -> None:
    """Every block answers to every real region; whatever stands where an example has none changes nothing."""
    compared, examples = opened(runs[family], shards)
    reader, numbers = compared.reader(CPU, examples), torch.arange(2)
    features = varied_inputs(examples)[:2].clone().requires_grad_()
    for layer in reader.layers:
        (gradient,) = torch.autograd.grad(reader(features, numbers, [layer])[layer].square().sum(), features)
        answers = gradient.abs().amax(2) > 0
        assert torch.equal(answers, examples.box_mask_BN[:2]), layer
    with torch.no_grad():
        other = features.detach().clone()
        other[0, 2:] = 7.0
        for layer, before in reader(features, numbers, reader.layers).items():
            assert torch.equal(reader(other, numbers, [layer])[layer], before)


def test_a_plain_model_is_asked_as_the_run_it_is_compared_with(
    runs: dict[str, RunFolder], shards: ShardSet, tmp_path: Path
) -> None:
    """In its tokens, and of its length: otherwise the two would read other questions."""
    compared, examples = opened(runs["lxmert"], shards)
    plain = tmp_path / "plain"
    LxmertForQuestionAnswering.from_pretrained(runs["lxmert"].base).save_pretrained(plain)
    beside = open_compared("pretrained", str(plain), "frozen", shards, compared)
    asked, wanted = (model.task.collate(examples).inputs["input_ids"] for model in (beside, compared))
    assert wanted.shape[1] == LONGEST
    assert torch.equal(asked, wanted)
    alone = open_compared("pretrained", str(plain), "frozen", shards)
    assert alone.task.collate(examples).inputs["input_ids"].shape[1] != LONGEST


def test_other_questions_about_the_same_pictures_are_another_measurement(
    runs: dict[str, RunFolder], shards: ShardSet
) -> None:
    compared, examples = opened(runs["lxmert"], shards)
    turned = replace(examples, questions=examples.questions[::-1])
    assert compared.reader(CPU, examples).fingerprint != compared.reader(CPU, turned).fingerprint
    assert compared.reader(CPU, examples).fingerprint == compared.reader(CPU, examples).fingerprint


def test_what_does_not_fit_is_told_in_one_sentence(
    runs: dict[str, RunFolder], ranks: Ranks, tiny: Callable[..., list[str]], workplace: Path, tmp_path: Path
) -> None:
    def refused(told: str, *more: str, finetuned: Path = runs["lxmert"].path) -> None:
        given = ["--finetuned", str(finetuned), "--shards", str(workplace / "world/target/val")]
        with pytest.raises(UserError, match=told):
            run_command(["invariance", *given, "--output", str(tmp_path / "m"), *more])

    sizes = LxmertConfig(
        visual_feat_dim=24, hidden_size=16, intermediate_size=16, num_attention_heads=2, l_layers=1, r_layers=1,
        x_layers=2, vocab_size=300,
    )  # fmt: skip
    LxmertForQuestionAnswering(sizes).save_pretrained(tmp_path / "narrow")
    refused("24", "--pretrained", str(tmp_path / "narrow"))
    refused("has 4 layers to compare, the fine-tuned model 3", "--pretrained", str(runs["lxmert"].path),
            finetuned=runs["vl_bert"].path)  # fmt: skip
    refused("start 'white' needs a range", "--start", "white")
    refused("start 'uniform' needs a range", "--start", "uniform", "--range", "0", "inf")
    refused(r"low 1.0 is not below high 0.0", "--range", "1", "0")
    run = build(load_run_config(tiny("invariance-blind", "--data.blind", "--max_steps", "2")), ranks)
    Trainer(run).fit()
    refused("sees nothing but questions", finetuned=run.folder.path)
    assert not (tmp_path / "m").exists()
