"""adaptive-ft shards --pictures: from photographs and a CSV, or folders, to shards that name their classes."""

from pathlib import Path

import pytest

from adaptive_ft.cli import run_command
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.reading.shard_set import verify
from adaptive_ft.errors import UserError
from tests.data.picture_files import write_picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("train/t-shirt/1.jpg", "train/hat/2.jpg", "val/hat/3.png", "test/coat/4.png"):
        write_picture(tmp_path / "tree" / name)
    return tmp_path / "tree"


def test_validation_takes_the_classes_of_training(tree: Path, tmp_path: Path) -> None:
    train, val = str(tmp_path / "shards/train"), str(tmp_path / "shards/val")
    run_command(["shards", "--pictures", str(tree), "--output", train])
    run_command(["shards", "--pictures", str(tree), "--split", "val", "--like", train, "--output", val])
    for folder, images in ((train, 2), (val, 1)):
        manifest = verify(Path(folder))
        assert (manifest.content, manifest.images) == (LABELLED_PICTURES, images)
        assert manifest.answer_table == ("hat", "t-shirt")


def test_a_list_of_classes_is_taken_as_it_is_written(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["t-shirt", "The Hat", "hat"]')
    words = ["--pictures", str(tree), "--answers", str(tmp_path / "classes.json")]
    run_command(["shards", *words, "--output", str(tmp_path / "out")])
    assert verify(tmp_path / "out").answer_table == ("t-shirt", "The Hat", "hat")


def test_a_label_outside_the_classes_is_refused(tree: Path, tmp_path: Path) -> None:
    run_command(["shards", "--pictures", str(tree), "--output", str(tmp_path / "train")])
    words = ["--pictures", str(tree), "--split", "test", "--like", str(tmp_path / "train")]
    with pytest.raises(UserError, match="its label 'coat' is none of the classes"):
        run_command(["shards", *words, "--output", str(tmp_path / "test")])
    assert not (tmp_path / "test").exists()


def test_pictures_and_questions_do_not_mix(tree: Path, tmp_path: Path) -> None:
    for words in (
        ["--labels", "labels.csv"],
        ["--pictures", str(tree), "--features", "f.tsv"],
        ["--pictures", str(tree), "--source.questions", "q.json"],
    ):
        with pytest.raises(UserError, match="--pictures stands alone"):
            run_command(["shards", *words, "--output", str(tmp_path / "out")])


def test_clothing_photographs_become_shards(shared_data: Path, tmp_path: Path) -> None:
    photographs = shared_data / "clothing_small"
    words = ["--pictures", str(photographs), "--labels", str(photographs / "labels.csv")]
    run_command(["shards", *words, "--split", "validation", "--output", str(tmp_path / "val")])
    manifest = verify(tmp_path / "val")
    assert (manifest.images, len(manifest.answer_table), manifest.answer_table[-1]) == (60, 10, "t-shirt")
