"""LXMERT's TSV: exact numbers, one line at a time, and damage named by line."""

import base64
import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.join import Join
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError
from tests.data.sources.reading import read_features, read_lxmert_json, read_vqa_json


def encode(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def row(number: int, *, regions: int = 2, feature_dim: int = 3) -> list[str]:
    boxes = np.array([[0, 0, 10, 10 + place] for place in range(regions)], dtype=np.float32)
    features = np.full((regions, feature_dim), number, dtype=np.float32)
    return [f"img{number}", "30", "40", "", "", "", "", str(regions), encode(boxes), encode(features)]


def write(path: Path, *rows: list[str]) -> Path:
    path.write_text("".join("\t".join(columns) + "\n" for columns in rows))
    return path


def test_arrays_and_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", row(1), row(2, regions=4))
    first, second = read_features([path], ImageSizes())
    assert (first.image_id, first.width, first.height, first.questions) == ("img1", 40, 30, ())
    assert first.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 11]]
    assert second.features.tolist() == [[2] * 3] * 4
    assert second.origin == f"{path} line 2"


def test_gzip_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    plain = write(tmp_path / "x.tsv", row(1))
    packed = tmp_path / "y.tsv"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert next(read_features([packed], ImageSizes())).image_id == "img1"


def test_a_cut_gzip_file(tmp_path: Path) -> None:
    plain = write(tmp_path / "x.tsv", *map(row, range(5)))
    packed = tmp_path / "y.tsv"
    packed.write_bytes(gzip.compress(plain.read_bytes())[:-12])
    with pytest.raises(UserError, match=r"y\.tsv is cut or damaged after line \d"):
        list(read_features([packed], ImageSizes()))


def changed(column: int, value: str) -> list[str]:
    columns = row(2)
    columns[column] = value
    return columns


DAMAGE = {
    "columns": (row(2)[:-1], "expected 10 tab-separated columns, found 9"),
    "base64": (changed(9, "!!!!"), "features are not valid base64"),
    "cut base64": (changed(9, row(2)[9][:-1]), "features are not valid base64"),
    "bytes": (changed(9, base64.b64encode(b"12345").decode()), "features hold 5 bytes"),
    "boxes": (changed(8, encode(np.zeros(7, dtype=np.float32))), "boxes hold 7 numbers, expected 4 for each of 2"),
    "features": (changed(9, encode(np.zeros(7, dtype=np.float32))), "features hold 7 numbers, not a multiple of 2"),
    "no features": (changed(9, ""), "features hold 0 numbers"),
    "width": (changed(2, "wide"), "img_w is 'wide'"),
    "no boxes": (changed(7, "0"), "num_boxes is 0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_by_line(name: str, tmp_path: Path) -> None:
    columns, message = DAMAGE[name]
    path = write(tmp_path / "x.tsv", row(1), columns)
    rows = read_features([path], ImageSizes())
    next(rows)
    with pytest.raises(UserError, match=f"x.tsv line 2: {message}"):
        next(rows)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        next(read_features([tmp_path / "absent.tsv"], ImageSizes()))


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", *(row(number, regions=36, feature_dim=512) for number in range(40)))
    tracemalloc.start()
    for _ in read_features([path], ImageSizes()):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_real_features_arrive_in_the_batch(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "coco_train2014_obj36"
    questions = read_vqa_json(
        real / "v2_OpenEnded_mscoco_obj36_questions.json", real / "v2_mscoco_obj36_annotations.json"
    )
    join = Join(read_features([real / "train2014_obj36.tsv"], ImageSizes()), questions)
    info = ShardInfo("train", "coco", "caffe R101 Visual Genome, 36 boxes", ["yes", "no"])
    manifest = write_shards(join, tmp_path / "set", info, images_per_shard=2)
    assert (manifest.images, manifest.questions, manifest.feature_dim) == (5, 6, 2048)
    assert (join.images_without_questions, join.questions_without_regions) == (5, 0)
    rows = {record.image_id: record for record in read_features([real / "train2014_obj36.tsv"], ImageSizes())}
    (batch,) = EvalStream(ShardSet.open(tmp_path / "set"), batch_size=6)
    assert batch.features_BND.shape == (6, 36, 2048)
    assert batch.box_mask_BN.all()
    for place, image_id in enumerate(batch.image_ids):
        record = rows[image_id]
        np.testing.assert_array_equal(batch.boxes_BN4[place], record.boxes)
        np.testing.assert_array_equal(batch.features_BND[place], record.features.astype(np.float16))
        np.testing.assert_allclose(batch.features_BND[place], record.features, rtol=2**-11, atol=2**-24)
        assert batch.sizes_B2[place].tolist() == [record.width, record.height]
        assert batch.questions[place] in questions[image_id]


def test_real_lxmert_json_agrees_with_the_official_files(shared_data: Path) -> None:
    real = shared_data / "coco_train2014_obj36"
    official = read_vqa_json(
        real / "v2_OpenEnded_mscoco_obj36_questions.json", real / "v2_mscoco_obj36_annotations.json"
    )
    lxmert = read_lxmert_json(real / "lxmert_obj36.json")
    assert {image: [question.text for question in asked] for image, asked in lxmert.items()} == {
        image: [question.text for question in asked] for image, asked in official.items()
    }
    for image, asked in lxmert.items():
        for given, computed in zip(asked, official[image], strict=True):
            assert given.scores.items() <= computed.scores.items()
