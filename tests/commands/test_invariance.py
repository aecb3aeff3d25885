"""adaptive-ft invariance on a small run: matrices, summary, pictures; one sentence for what does not fit."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import ViTConfig, ViTForImageClassification

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.build import build
from adaptive_ft.cli import run_command
from adaptive_ft.config import load_run_config
from adaptive_ft.data.pixels import Framing
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.world.labelled import PicturesConfig, generate_pictures
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.measured.inputs import read_examples, varied_inputs
from adaptive_ft.measured.models import open_base, open_compared
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.trainer import Trainer

SMALL = PicturesConfig(
    source_train_images=6, source_val_images=6, target_train_images=10, target_val_images=11, images_per_shard=4
)
SETTINGS = ("--images", "9", "--iterations", "6", "--batch-size", "5")
LAYERS = ("layer.0", "layer.1", "layer.2", "layer.3", "norm")
SIZES = {"image_size": 24, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and a base of four layers."""
    folder = tmp_path_factory.mktemp("invariance")
    generate_pictures(folder / "pictures", SMALL)
    torch.manual_seed(1)
    base = ViTForImageClassification(ViTConfig(**SIZES, num_hidden_layers=4, initializer_range=0.2))
    base.save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="module")
def finished(place: Path, repository: Path, ranks: Ranks) -> RunFolder:
    """A run on that base; tests only read it."""
    return trained(place, repository, ranks, "run")


def trained(place: Path, repository: Path, ranks: Ranks, name: str, *more: str) -> RunFolder:
    """A run of a few updates on that base."""
    given = {
        "--name": name,
        "--output_dir": place / "runs",
        "--ds_config": repository / "ds_configs/zero0.json",
        "--data.train": place / "pictures/target/train",
        "--data.val": place / "pictures/target/val",
        "--model.name": place / "base",
        "--max_steps": 4,
        "--per_device_train_batch_size": 4,
        "--optim.learning_rate": 0.01,
        "--adapt.policy.embedding_size": 8,
        "--adapt.policy.hidden_size": 8,
    }
    run = build(load_run_config([str(word) for pair in given.items() for word in pair] + list(more)), ranks)
    Trainer(run).fit()
    return run.folder


def measure(finetuned: Path, place: Path, output: Path | None, *more: str) -> None:
    shards = str(place / "pictures/target/val")
    where = () if output is None else ("--output", str(output))
    run_command(["invariance", "--finetuned", str(finetuned), "--shards", shards, *where, *SETTINGS, *more])


def test_a_run_is_compared_with_its_base(
    finished: RunFolder, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(finished.path, place, tmp_path / "m", "--pretrained", str(place / "base"))
    told = capsys.readouterr().out
    found: dict[str, Any] = json.loads((tmp_path / "m/summary.json").read_text())
    assert (found["layers"], found["images"], found["control"]) == (list(LAYERS), 9, "random")
    with np.load(tmp_path / "m/matrices.npz") as held:
        assert {name for name in held.files if name.startswith("stir-")} == {
            "stir-fine-tuned", "stir-pretrained", "stir-random",
        }  # fmt: skip
        assert held["residuals"].shape == (5, 9)
        assert found["retention"] == np.diagonal(held["stir-fine-tuned"]).tolist()
        assert found["unsearched"] == held["unsearched-fine-tuned"].tolist()
        assert found["unbiased"]["retention"] == np.diagonal(held["unbiased-fine-tuned"]).tolist()
        assert found["within_pretrained"][0] > held["unsearched-pretrained"][0]
    assert set(found["tuned_share"]) == set(LAYERS[:4])
    assert len(found["strongest_layer"]) == len(found["centre_of_mass"]) == 4
    assert (np.array(found["median_residual"]) < 0.9 * np.array(found["median_starting_residual"])).all()
    assert (compared := found["compared"]) == json.loads((tmp_path / "m/measurement.json").read_text())["compared"]
    assert compared["fine-tuned"] == {"name": str(finished.path), "policy": "network", "checkpoint": "step_000004"}
    assert compared["pretrained"] == {"name": str(place / "base")}
    assert all((tmp_path / "m" / name).stat().st_size > 5000 for name in ("stir.png", "retention_and_usage.png"))
    assert all(f"\n{layer}" in told for layer in LAYERS)
    assert "rank correlation of tuned share and forgetting" in told
    assert f"\nfigure     {tmp_path}/m/retention_and_usage.png\n" in told


def test_it_goes_on_in_the_same_folder_without_another_search(
    finished: RunFolder, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The base has other classes than the pictures, so that its head is a new one each time.
    measure(finished.path, place, tmp_path / "m", "--pretrained", str(place / "base"))
    first = (tmp_path / "m/summary.json").read_text()
    assert "inversions 1/10" in capsys.readouterr().out
    # Without a name the pretrained model is that base.
    measure(finished.path, place, tmp_path / "m")
    assert "inversions" not in capsys.readouterr().out
    assert (tmp_path / "m/summary.json").read_text() == first


def test_a_frozen_run_is_its_base_but_for_the_embeddings_and_a_policy_decides_per_picture(
    finished: RunFolder, place: Path
) -> None:
    numbers, device = torch.arange(3), torch.device("cpu")
    shards = open_set(str(place / "pictures/target/val"), DataConfig())
    examples = read_examples(shards.with_pictures(Framing(24)), 3)
    pictures = varied_inputs(examples)
    model = restore(finished.path).model
    pixels = (2 * pictures - 1).clone()
    for word, policy in (("frozen", "frozen"), ("tuned", "tuned"), ("network", None)):
        reader = open_compared("fine-tuned", str(finished.path), word, shards).reader(device, examples)
        with torch.no_grad():
            found = reader(pictures, numbers, ["layer.0", "layer.3", "norm"])
            whole = model(pixel_values=pixels, policy=policy, output_hidden_states=True)
        assert torch.allclose(found["layer.0"], whole.hidden_states[1].flatten(1), atol=1e-5)
        assert torch.allclose(found["layer.3"], whole.hidden_states[4].flatten(1), atol=1e-5)
        assert torch.allclose(model.base.classifier(found["norm"]), whole.logits, atol=1e-5)


def test_both_ways_cost_one_more_search_per_layer_and_are_told(
    finished: RunFolder, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(finished.path, place, tmp_path / "m", "--both-ways")
    told = capsys.readouterr().out
    assert told.count("inversions 10/10") == 2
    stir = json.loads((tmp_path / "m/summary.json").read_text())["stir"]
    with np.load(tmp_path / "m/matrices.npz") as there, np.load(tmp_path / "m/on-fine-tuned/matrices.npz") as back:
        assert stir["m1m2"] == np.diagonal(there["stir-fine-tuned"]).tolist()
        assert stir["m2m1"] == np.diagonal(back["stir-pretrained"]).tolist()
        assert stir["rsm"] == np.diagonal(there["rsm-fine-tuned"]).tolist()
        assert np.allclose(np.diagonal(back["rsm-pretrained"]), stir["rsm"])
        assert not np.allclose(stir["m1m2"], stir["m2m1"])
    assert [f"{finished.path}" in file.read_text() for file in tmp_path.rglob("measurement.json")] == [True, True]
    assert (tmp_path / "m/stir-on-fine-tuned.png").stat().st_size > 5000
    assert f"{stir['m2m1'][0]:.3f}" in told


def test_a_control_trained_from_scratch_and_a_random_one_are_told_apart(
    finished: RunFolder, place: Path, tmp_path: Path
) -> None:
    """What was transferred is what the fine-tuned model has beyond the control that is named."""
    torch.manual_seed(3)
    ViTForImageClassification(ViTConfig(**SIZES, num_hidden_layers=4)).save_pretrained(tmp_path / "scratch")
    measure(finished.path, place, tmp_path / "m", "--control", str(tmp_path / "scratch"))
    measure(finished.path, place, tmp_path / "without")
    found, without = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("m", "without"))
    with np.load(tmp_path / "m/matrices.npz") as held:
        diagonals = {name: np.diagonal(held[f"stir-{name}"]) for name in ("fine-tuned", "control", "random")}
    for told, name in ((found, "control"), (without, "random")):
        assert told["control"] == name
        assert told["control_retention"] == diagonals[name].tolist()
        assert told["transferred"] == (diagonals["fine-tuned"] - diagonals[name]).tolist()
    assert not np.allclose(diagonals["control"], diagonals["random"])


@pytest.fixture(scope="module")
def blockdrop(place: Path, repository: Path, ranks: Ranks) -> RunFolder:
    """A run that leaves blocks out; tests only read it."""
    return trained(place, repository, ranks, "blockdrop", "--adapt.strategy", "blockdrop")


def test_blockdrop_is_read_as_its_policy_decides(blockdrop: RunFolder, place: Path, tmp_path: Path) -> None:
    """A block that a picture leaves out passes its input on; the run keeps no frozen half, but its base lies there."""
    with pytest.raises(UserError, match="knows no policy 'frozen', only network, global, used"):
        measure(blockdrop.path, place, tmp_path / "m", "--pretrained", str(blockdrop.path))
    measure(blockdrop.path, place, tmp_path / "m", "--control", str(blockdrop.path))
    found = json.loads((tmp_path / "m/summary.json").read_text())
    assert all(0 <= kept <= 1 for kept in found["retention"])
    assert set(found["tuned_share"]) == {f"layer.{number}" for number in range(4)}
    # A control that is a run is read as its own policy decides.
    assert found["control_retention"] == found["retention"]
    shards = open_set(str(place / "pictures/target/val"), DataConfig())
    examples = read_examples(shards.with_pictures(Framing(24)), 11)
    compared = open_compared("fine-tuned", str(blockdrop.path), "network", shards)
    with torch.no_grad():
        layers = compared.reader(torch.device("cpu"), examples)(varied_inputs(examples), torch.arange(11), LAYERS)
        used_BD = restore(blockdrop.path).model(pixel_values=2 * varied_inputs(examples) - 1).gates
    assert 0 < used_BD[:, 1:].mean() < 1
    for number in range(1, 4):
        passed_on = (layers[f"layer.{number}"] - layers[f"layer.{number - 1}"]).abs().amax(1) == 0
        assert torch.equal(passed_on, used_BD[:, number] == 0)


def test_one_decision_of_blockdrop_keeps_the_blocks_it_leaves_out(blockdrop: RunFolder, place: Path) -> None:
    """They pass their input on, so that all models have one depth; the shares are those of this decision."""
    shards = open_set(str(place / "pictures/target/val"), DataConfig())
    examples = read_examples(shards.with_pictures(Framing(24)), 3)
    compared = open_compared("fine-tuned", str(blockdrop.path), "global", shards)
    assert isinstance(compared.model, AdaptiveModel)
    decided = torch.tensor([True, False, True, False])
    compared.model.global_decisions = decided
    reader = compared.reader(torch.device("cpu"), examples)
    assert reader.layers == LAYERS
    with torch.no_grad():
        found = reader(varied_inputs(examples), torch.arange(3), LAYERS)
    for number in range(1, 4):
        passed_on = torch.equal(found[f"layer.{number}"], found[f"layer.{number - 1}"])
        assert passed_on == (not decided[number])


@pytest.mark.parametrize("policy", ["global", "tuned"])
def test_shares_are_those_of_the_weights_that_were_measured(
    policy: str, finished: RunFolder, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The majority's under one decision for all; none where a word has set the gates, and a line says so."""
    measure(finished.path, place, tmp_path / "m", "--policy", policy)
    shares = json.loads((tmp_path / "m/summary.json").read_text())["tuned_share"]
    told = capsys.readouterr().out
    if policy == "tuned":
        assert shares == {}
        assert "\nno rank correlation of tuned share and forgetting: --policy tuned set all gates alike\n" in told
        return
    model = restore(finished.path).model
    assert model.global_decisions is not None
    by_layer = model.global_decisions.float().view(4, -1).mean(1)
    assert [shares[f"layer.{number}"] for number in range(4)] == pytest.approx(by_layer.tolist())


def test_the_base_of_a_run_has_what_no_gate_chooses_as_it_was_pretrained(finished: RunFolder, place: Path) -> None:
    """As the final norm, which the run, all frozen, has as trained."""
    shards = open_set(str(place / "pictures/target/val"), DataConfig())
    frozen = open_compared("pretrained", str(finished.path), "frozen", shards)
    base, norm = open_base("pretrained", frozen, finished), "vit.layernorm.bias"
    given = ViTForImageClassification.from_pretrained(place / "base")
    assert torch.equal(base.base.get_parameter(norm), given.get_parameter(norm))
    assert not torch.equal(frozen.base.get_parameter(norm), given.get_parameter(norm))


def test_figures_go_to_the_trackers_of_a_finished_run(
    place: Path, repository: Path, ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its last step, beside what it recorded itself; the table has been printed when a tracker refuses them."""
    run = trained(place, repository, ranks, "tracked", "--tracking.report_to", "tensorboard")
    measure(run.path, place, None)
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    usage = [f"spottune Finetuning Fraction: {split}" for split in ("train", "val")]
    assert set(events.Tags()["images"]) == {"curves", *usage, "invariance/retention_and_usage", "invariance/stir"}
    with Image.open(run.path / "invariance/stir.png") as drawn:
        (event,) = events.Images("invariance/stir")
        assert (event.step, event.width, event.height) == (4, *drawn.size)
        shown = Image.open(io.BytesIO(event.encoded_image_string))
        assert np.array_equal(np.asarray(shown), np.asarray(drawn.convert("RGB")))
    assert events.Scalars("epoch/val_score")[-1].step == 4
    lines = (run.path / "metrics.jsonl").read_text()
    shutil.rmtree(run.path / "tensorboard")
    (run.path / "tensorboard").write_text("no folder")
    capsys.readouterr()
    with pytest.raises(UserError, match="All is measured and written, but tensorboard did not take the figures"):
        measure(run.path, place, None)
    assert f"\nfigure     {run.path}/invariance/retention_and_usage.png\n" in capsys.readouterr().out
    assert (run.path / "metrics.jsonl").read_text() == lines


def test_what_does_not_fit_is_told_in_one_sentence(
    finished: RunFolder, place: Path, tmp_path: Path, workplace: Path
) -> None:
    def refused(told: str, *more: str, finetuned: Path = finished.path) -> None:
        with pytest.raises(UserError, match=told):
            measure(finetuned, place, tmp_path / "m", *more)

    for name, sizes in (("shallow", {"num_hidden_layers": 2}), ("larger", {"num_hidden_layers": 4, "image_size": 32})):
        ViTForImageClassification(ViTConfig(**{**SIZES, **sizes})).save_pretrained(tmp_path / name)
    refused("has 5 layers to compare, the control model 3", "--control", str(tmp_path / "shallow"))
    refused("images are 3 x 24 x 24 but the control model takes 3 x 32 x 32", "--control", str(tmp_path / "larger"))
    refused("is no run folder, so it names no base: give --pretrained", finetuned=place / "base")
    refused("model folder '/nowhere/x' does not exist", finetuned=Path("/nowhere/x"))
    refused("knows no policy 'used', only", "--policy", "used")
    refused("knows no policy 'used', only", "--control", str(finished.path), "--control-policy", "used")
    for device in ("cpu:x", "cuda:99", "gpu"):
        refused(f"--device {device}: this machine has cpu", "--device", device)
    refused("--images is 1", "--images", "1")
    refused("iterations is 0", "--iterations", "0")
    (empty := tmp_path / "empty").mkdir()
    (empty / "config.yaml").write_text(finished.config_file.read_text())
    refused("has no latest checkpoint", finetuned=empty)
    refused("reads labelled pictures, .* holds questions", "--shards", str(workplace / "world/target/val"))
    assert not (tmp_path / "m").exists()
