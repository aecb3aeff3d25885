"""adaptive-ft shards on questions: any format of features, several files, and what splits have in common."""

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.cli import run_command
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.errors import UserError
from tests.data.sources.feature_files import json_content, write_npz_folder, write_tsv
from tests.data.sources.reading import read_features

NAMES = [f"COCO_{split}_{number:012d}" for split in ("train2014", "val2014") for number in (1, 2)]


@pytest.fixture
def images() -> list[ImageRecord]:
    random = np.random.default_rng(0)
    box = np.array([[1, 2, 30, 40]], dtype=np.float32)
    features = random.standard_normal((len(NAMES), 1, 5)).astype(np.float32)
    return [ImageRecord(name, 60, 50, box, part, ()) for name, part in zip(NAMES, features, strict=True)]


def ask(path: Path, names: list[str], start: int = 0) -> str:
    entries = [
        {"question_id": start + place, "img_id": name, "sent": "What?", "label": {"dog": 1}}
        for place, name in enumerate(names)
    ]
    path.write_text(json.dumps(entries))
    return str(path)


def shards(output: Path, *words: str | Path) -> None:
    run_command(["shards", "--output", str(output), "--min_answer_count", "1", *map(str, words)])


def test_files_of_two_splits_make_one_set(images: list[ImageRecord], tmp_path: Path) -> None:
    """LXMERT trains on train and nominival; their features lie in two files, here of two formats."""
    asked = ask(tmp_path / "train.json", NAMES[:2]), ask(tmp_path / "nominival.json", NAMES[2:], start=10)
    features = write_tsv(tmp_path, images[:2]), write_npz_folder(tmp_path, images[2:])
    shards(tmp_path / "out", "--source.lxmert_json", *asked, "--features", *features)
    assert verify(tmp_path / "out").images == 4
    (batch,) = EvalStream(ShardSet.open(tmp_path / "out"), batch_size=4)
    assert batch.image_ids == NAMES


def test_numbered_features_with_sizes_from_coco(images: list[ImageRecord], tmp_path: Path) -> None:
    """VL-BERT's files bear the number alone and may lack the size."""
    (tmp_path / "genome").mkdir()
    for record in images[:2]:
        content = {name: value for name, value in json_content(record).items() if not name.startswith("image_")}
        (tmp_path / f"genome/{int(record.image_id[-12:])}.json").write_text(json.dumps(content))
    listed = [{"file_name": f"{name}.jpg", "width": 60, "height": 50} for name in NAMES[:2]]
    (tmp_path / "instances.json").write_text(json.dumps({"images": listed}))
    words = ["--source.lxmert_json", ask(tmp_path / "q.json", NAMES[:2]), "--features", tmp_path / "genome"]
    with pytest.raises(UserError, match="name one that tells them"):
        shards(tmp_path / "out", *words)
    shards(tmp_path / "out", *words, "--image_sizes", tmp_path / "instances.json")
    (batch,) = EvalStream(ShardSet.open(tmp_path / "out"), batch_size=2)
    assert batch.image_ids == NAMES[:2]
    assert batch.sizes_B2.tolist() == [[60, 50]] * 2


def test_validation_must_not_hold_training_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards(tmp_path / "train", "--source.lxmert_json", ask(tmp_path / "train.json", NAMES[:3]))
    like = ["--like", tmp_path / "train", "--split", "minival"]
    shards(tmp_path / "val", "--source.lxmert_json", ask(tmp_path / "val.json", NAMES[2:], start=10), *like)
    assert f"in common with '{tmp_path / 'train'}': 1 images, 0 questions" in capsys.readouterr().out
    again = ["--source.lxmert_json", ask(tmp_path / "again.json", NAMES[:2]), "--like", tmp_path / "train"]
    for split in ([], ["--split", "minival"]):  # whoever forgets --split has a second set called train
        with pytest.raises(UserError, match=r"2 of these questions are in '.*train' too: a score"):
            shards(tmp_path / "again", *again, *split)
        assert not (tmp_path / "again").exists()
    shards(tmp_path / "again", *again, "--allow_overlap")
    assert f"in common with '{tmp_path / 'train'}': 2 images, 2 questions" in capsys.readouterr().out


def test_unknown_answers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.json").write_text('["cat"]')
    shards(
        tmp_path / "out", "--source.lxmert_json", ask(tmp_path / "q.json", NAMES), "--answers", tmp_path / "table.json"
    )
    assert "unknown answers: 4 of 4 answered questions have none in the table, and score 0" in capsys.readouterr().out


def test_a_test_split_of_lxmert_s_form_is_unanswered(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(json.dumps([{"question_id": 1, "img_id": NAMES[0], "sent": "What?"}]))
    shards(tmp_path / "out", "--source.lxmert_json", tmp_path / "test.json")
    assert not verify(tmp_path / "out").answered


def test_real_gqa_questions_without_regions(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "gqa_sample"
    words = ["--source.gqa_json", real / "question_dir", "--answers", real / "trainval_label2ans.json"]
    shards(tmp_path / "out", *words)
    assert len(verify(tmp_path / "out").answer_table) > 1500


def test_real_regions_by_number(shared_data: Path, tmp_path: Path) -> None:
    """The real features under the names that bottom-up-attention's own exports give them."""
    real = shared_data / "coco_train2014_obj36"
    (tmp_path / "numbered").mkdir()
    for record in read_features([real / "train2014_obj36.tsv"], ImageSizes()):
        content = json.dumps(json_content(record))
        (tmp_path / f"numbered/{int(record.image_id[-12:])}.json").write_text(content)
    words = ["--source.lxmert_json", real / "lxmert_obj36.json", "--features"]
    shards(tmp_path / "json", *words, tmp_path / "numbered")
    shards(tmp_path / "tsv", *words, real / "train2014_obj36.tsv")
    (one,), (other,) = (EvalStream(ShardSet.open(tmp_path / name), batch_size=6) for name in ("json", "tsv"))
    places = [other.questions.index(question) for question in one.questions]
    np.testing.assert_array_equal(one.features_BND, other.features_BND[places])
    np.testing.assert_array_equal(one.boxes_BN4, other.boxes_BN4[places])


def test_bad_images_are_left_out_up_to_a_share(
    images: list[ImageRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Counted, named, and with any number of processes; what was written before the first of them is kept."""
    images[1] = replace(images[1], features=images[1].features * np.nan)
    path = write_tsv(tmp_path, images)
    path.write_text(path.read_text().replace(f"{NAMES[2]}\t50", f"{NAMES[2]}\tfifty"))
    words = ["--source.lxmert_json", ask(tmp_path / "q.json", NAMES), "--features", path, "--images_per_shard", "1"]
    with pytest.raises(UserError, match=rf"'{NAMES[1]}' .* hold NaN"):
        shards(tmp_path / "out", *words)
    with pytest.raises(UserError, match=r"1 of 4 images are bad, and --max_bad_share 0.1 allows no more than 0"):
        shards(tmp_path / "out", *words, "--on_bad", "skip", "--max_bad_share", "0.1")
    skip = ["--on_bad", "skip", "--max_bad_share", "0.5"]
    shards(tmp_path / "out", *words, *skip)
    shards(tmp_path / "two", *words, *skip, "--processes", "2")
    assert [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "two").iterdir())
    ]
    (batch,) = EvalStream(ShardSet.open(tmp_path / "out"), batch_size=2)
    assert batch.image_ids == [NAMES[0], NAMES[3]]
    assert capsys.readouterr().out.count("left out as bad: 2 images, named above") == 2
    for told in (f"'{NAMES[1]}'", f"{path} line 3: img_h is 'fifty'"):
        assert (
            f"Left out of the shards: image {told}" in caplog.text or f"Left out of the shards: {told}" in caplog.text
        )


def test_packed_files_are_read_by_several_processes(images: list[ImageRecord], tmp_path: Path) -> None:
    """Each finds its lines and members by itself, in gzip and in a zip."""
    plain = write_tsv(tmp_path, images[:2])
    packed = tmp_path / "packed.tsv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with zipfile.ZipFile(tmp_path / "rest.zip", "w") as archive:
        for path in sorted(write_npz_folder(tmp_path, images[2:]).iterdir()):
            archive.write(path, f"inside/{path.name}")
    words = ["--source.lxmert_json", ask(tmp_path / "q.json", NAMES), "--features", packed, tmp_path / "rest.zip"]
    shards(tmp_path / "out", *words, "--images_per_shard", "1", "--processes", "2")
    (batch,) = EvalStream(ShardSet.open(tmp_path / "out"), batch_size=4)
    assert batch.image_ids == NAMES
    for record, features_ND in zip(images, batch.features_BND, strict=True):
        np.testing.assert_array_equal(features_ND, record.features.astype(np.float16))
