"""Image classification end to end: a tiny ViT trains on generated pictures, goes on, is judged and becomes a base.

Mirrors no single module: build, subjects, trainer, saving and the commands hold this together.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model, ViTForImageClassification

from adaptive_ft import AdaptiveModel
from adaptive_ft.build import build
from adaptive_ft.cli import run_command
from adaptive_ft.commands.eval import Command as Evaluate
from adaptive_ft.commands.report import Command as Report
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.data.reading.shard_set import PictureShardSet
from adaptive_ft.data.world.config import IMAGE_ID_SPACE
from adaptive_ft.data.world.labelled import PicturesConfig, generate_pictures
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.trainer import Trainer

SMALL = PicturesConfig(
    source_train_images=12, source_val_images=6, target_train_images=10, target_val_images=7, images_per_shard=4
)
Options = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generate_pictures(folder / "pictures", SMALL)
    return folder


@pytest.fixture(scope="module")
def options(place: Path, repository: Path) -> Options:
    """The config of a run of four updates; later words win."""

    def make(name: str, *more: str) -> RunConfig:
        given = {
            "--name": name,
            "--output_dir": str(place / "runs"),
            "--ds_config": str(repository / "ds_configs/zero0.json"),
            "--data.train": str(place / "pictures/target/train"),
            "--data.val": str(place / "pictures/target/val"),
            "--model.type": "vit",
            "--model.image_size": "24",
            "--model.patch_size": "8",
            "--model.hidden_size": "16",
            "--model.num_attention_heads": "2",
            "--model.intermediate_size": "16",
            "--model.layers": "2",
            "--max_steps": "4",
            "--per_device_train_batch_size": "4",
            "--pictures.flip_probability": "0.5",
            "--pictures.smallest_crop": "0.7",
            "--adapt.policy.embedding_size": "8",
            "--adapt.policy.hidden_size": "8",
        }
        return load_run_config([word for pair in given.items() for word in pair] + list(more))

    return make


@pytest.fixture(scope="module")
def finished(options: Options, ranks: Ranks) -> RunFolder:
    run = build(options("finished", "--save_steps", "3"), ranks)
    Trainer(run).fit()
    return run.folder


def losses(folder: RunFolder) -> list[float]:
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [entry["epoch/loss"] for entry in map(json.loads, lines) if "epoch/loss" in entry]


def test_the_summary_tells_accuracy_and_the_most_frequent_class(finished: RunFolder) -> None:
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary["official_accuracy"] is None
    assert 7 * summary["val_score"] == pytest.approx(round(7 * summary["val_score"]))
    assert summary["best_constant"]["score"] >= 1 / 7
    assert list(finished.plots.glob("usage_val_epoch*.png"))


def test_a_resumed_run_ends_where_the_other_did(
    finished: RunFolder, options: Options, place: Path, ranks: Ranks
) -> None:
    shutil.copytree(finished.path, place / "runs/resumed")
    (place / "runs/resumed/summary.json").unlink()
    shutil.rmtree(place / "runs/resumed/checkpoints/step_000004")
    resumed = build(options("resumed", "--save_steps", "3", "--resume", "auto"), ranks)
    summary = Trainer(resumed).fit()
    whole = json.loads((finished.path / "summary.json").read_text())
    assert (summary["val_score"], summary["tuned_share"]) == (whole["val_score"], whole["tuned_share"])
    assert losses(resumed.folder) == losses(finished)


def test_a_run_is_judged_again_from_its_folder(
    finished: RunFolder, place: Path, ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    Evaluate(checkpoint=finished.path, predictions=place / "answers.json").answer_on(ranks)
    told = capsys.readouterr().out
    score = json.loads((finished.path / "summary.json").read_text())["val_score"]
    assert f"{100 * score:.2f}" in told
    assert "pictures" in told
    written = json.loads((place / "answers.json").read_text())
    assert sorted(line["image_id"] for line in written) == [f"target-val-{number:06d}" for number in range(7)]
    assert all(line["question_id"] % IMAGE_ID_SPACE == int(line["image_id"][-6:]) for line in written)
    assert {tuple(line) for line in written} == {("image_id", "question_id", "answer")}


def test_the_base_that_a_run_keeps_takes_up_what_its_checkpoints_hold(finished: RunFolder) -> None:
    """In plain Python, as docs/api.md says; the run started from random weights."""
    base = ViTForImageClassification.from_pretrained(finished.path / "base")
    tag = finished.checkpoints.pointed("latest")
    model = AdaptiveModel.from_pretrained(base, finished.checkpoints.folder / str(tag) / "adaptive")
    expected = restore(finished.path).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_an_exported_model_is_the_base_of_another_run(
    options: Options, place: Path, ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(build(options("first", "--strategy", "standard", "--export_to", str(place / "vit")), ranks)).fit()
    second = build(options("second", "--model.name", str(place / "vit"), "--model.type", "None"), ranks)
    assert "10 training and 7 validation pictures" in capsys.readouterr().out
    assert (place / "vit/preprocessor_config.json").is_file()
    score = Trainer(second).fit()["start_val_score"]
    assert score == json.loads((place / "runs/first/summary.json").read_text())["best_val_score"]


def test_a_dinov2_is_fed_what_its_processor_makes_in_training_and_when_judged(
    options: Options, place: Path, ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 1}
    Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=7)).save_pretrained(place / "dinov2")
    processor = BitImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 14, "width": 14})
    processor.save_pretrained(place / "dinov2")
    run = build(options("dinov2", "--model.name", str(place / "dinov2"), "--model.type", "None"), ranks)
    assert isinstance(run.parts.train_shards, PictureShardSet)
    assert run.parts.train_shards.framing.side == 14
    score = Trainer(run).fit()["val_score"]
    capsys.readouterr()
    Evaluate(checkpoint=place / "runs/dinov2").answer_on(ranks)
    assert f"{100 * score:.2f}" in capsys.readouterr().out
    (saved,) = {path.read_text() for path in (place / "runs/dinov2/checkpoints").rglob("preprocessor_config.json")}
    assert json.loads(saved)["crop_size"] == {"height": 14, "width": 14}


def test_pictures_and_questions_refuse_each_others_models(options: Options, workplace: Path, ranks: Ranks) -> None:
    with pytest.raises(UserError, match="hold labelled pictures, but a base model of type 'lxmert' reads questions"):
        build(options("a", "--model.type", "lxmert"), ranks)
    world = ["--data.train", str(workplace / "world/target/train"), "--data.val", str(workplace / "world/target/val")]
    with pytest.raises(UserError, match="hold questions, but a base model of type 'vit' reads labelled pictures"):
        build(options("b", *world), ranks)
    with pytest.raises(UserError, match="differ in their content"):
        build(options("c", *world[:2]), ranks)
    with pytest.raises(UserError, match=r"--data\.blind leaves nothing"):
        build(options("d", "--data.blind"), ranks)


def test_clothing_photographs_train_a_vit(shared_data: Path, options: Options, place: Path, ranks: Ranks) -> None:
    photographs = shared_data / "clothing_small"
    words = ["shards", "--pictures", str(photographs), "--labels", str(photographs / "labels.csv")]
    train, val = str(place / "clothing/train"), str(place / "clothing/val")
    run_command([*words, "--output", train])
    run_command([*words, "--split", "validation", "--like", train, "--output", val])
    summary = Trainer(build(options("clothing", "--data.train", train, "--data.val", val), ranks)).fit()
    assert summary["best_constant"]["score"] == pytest.approx(0.1)


def test_the_report_shows_pictures_with_their_classes(finished: RunFolder, tmp_path: Path) -> None:
    """All seven pictures of the validation set, without regions, and usage by class."""
    Report([finished.path], output=tmp_path / "page.html", examples=7).run()
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count('class="card"') == html.count("<img ") == 7
    assert "Usage by class" in html
    assert 'aria-hidden="true"><rect' not in html
