"""The world on disk: same config, same bytes; valid shards; never half a world."""

import io
import json
import shutil
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from adaptive_ft.data.format.manifest import Manifest
from adaptive_ft.data.reading.shard_set import verify
from adaptive_ft.data.records import ImageRecord, validate_record
from adaptive_ft.data.world import WorldConfig, generate_world
from adaptive_ft.data.world.annotators import ANSWER_TABLE
from adaptive_ft.data.world.attributes import IMAGE_SIZE, Scene
from adaptive_ft.data.world.config import WORLD_SPLITS
from adaptive_ft.data.world.features import EXTRACTOR, FEATURE_DIM, extract_features
from adaptive_ft.errors import UserError

Made = dict[str, list[tuple[Scene, ImageRecord]]]


class Written(Protocol):
    """What the fixture `written` gives."""

    folder: Path
    config: WorldConfig
    manifests: dict[str, Manifest]


def test_the_same_config_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    again = generate_world(tmp_path / "again", written.config)
    other = generate_world(tmp_path / "other", WorldConfig.small(seed=1))
    assert again == written.manifests
    for path in written.folder.rglob("*"):
        if path.is_file():
            copy = tmp_path / "again" / path.relative_to(written.folder)
            assert copy.read_bytes() == path.read_bytes(), path.name
    for name, manifest in other.items():
        assert {shard.sha256 for shard in manifest.shards}.isdisjoint(
            shard.sha256 for shard in written.manifests[name].shards
        )


def test_the_shards_are_valid_and_say_what_they_hold(written: Written) -> None:
    assert list(written.manifests) == [
        "source/train", "source/val", "target/train", "target/val", "target/val_indomain",
    ]  # fmt: skip
    for split in WORLD_SPLITS:
        folder = written.folder / split.name
        manifest = verify(folder)
        assert manifest == written.manifests[split.name]
        assert (manifest.domain, manifest.split) == (split.domain, split.part)
        assert manifest.images == split.num_images(written.config)
        assert (manifest.feature_extractor, manifest.feature_dim) == (EXTRACTOR, FEATURE_DIM)
        assert manifest.min_boxes == manifest.max_boxes == written.config.num_regions
        assert manifest.answer_table == ANSWER_TABLE
        assert manifest.tokenizer_from(folder) == folder / "tokenizer"
        assert "tokenizer.json" in manifest.tokenizer_files


def test_records_are_valid_and_numbered_once(made: Made) -> None:
    images, questions = [], []
    for records in made.values():
        for _, record in records:
            validate_record(record)
            images.append(record.image_id)
            questions += [question.question_id for question in record.questions]
    assert len(set(images)) == len(images)
    assert len(set(questions)) == len(questions)


def test_features_come_from_the_stored_picture(made: Made) -> None:
    for _, record in made["target/val"][:5]:
        assert record.picture is not None
        picture = Image.open(io.BytesIO(record.picture))
        assert picture.size == (IMAGE_SIZE, IMAGE_SIZE) == (record.width, record.height)
        assert np.array_equal(extract_features(picture, record.boxes), record.features)
    assert all(record.picture is None for _, record in made["source/train"])


def test_a_world_that_is_there_is_opened_not_made_again(written: Written) -> None:
    calls: list[tuple[str, int, int]] = []
    stamps = {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")}
    again = generate_world(written.folder, written.config, lambda *report: calls.append(report))
    assert again == written.manifests
    assert calls == []
    assert stamps == {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")}


def test_another_world_or_anything_else_in_the_folder_is_refused(written: Written, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another config"):
        generate_world(written.folder, WorldConfig.small(seed=1))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty: it holds something else"):
        generate_world(tmp_path, written.config)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_leaves_no_world_and_the_next_one_succeeds(written: Written, tmp_path: Path) -> None:
    folder = tmp_path / "world"

    def stop(split: str, done: int, total: int) -> None:
        if split == "target/train" and done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_world(folder, written.config, stop)
    assert not folder.exists()
    assert generate_world(folder, written.config) == written.manifests
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_the_unfinished_world_of_somebody_else_stays(tmp_path: Path) -> None:
    """Only what an interrupted writer leaves is begun over."""
    notes = tmp_path / "world.unfinished/source/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(UserError, match=r"holds 'source/notes\.txt'"):
        generate_world(tmp_path / "world", WorldConfig.small())
    assert notes.read_text() == "mine"


def test_a_killed_run_is_begun_over(written: Written, tmp_path: Path) -> None:
    """Everything a kill can leave: whole splits, half a split, tokenizer and description."""
    unfinished = tmp_path / "world.unfinished"
    shutil.copytree(written.folder, unfinished)
    (unfinished / "target/val").rename(unfinished / "target/val.unfinished")
    assert generate_world(tmp_path / "world", written.config) == written.manifests
    assert not unfinished.exists()


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    config = WorldConfig(
        source_train_images=3,
        source_val_images=1,
        target_train_images=2,
        target_val_images=1,
        target_val_indomain_images=2,
    )
    generate_world(tmp_path / "world", config, lambda *report: calls.append(report))
    assert calls == [
        (split.name, done, split.num_images(config))
        for split in WORLD_SPLITS
        for done in range(1, split.num_images(config) + 1)
    ]
    assert json.loads((tmp_path / "world" / "world.json").read_text())["config"] == config.to_dict()
