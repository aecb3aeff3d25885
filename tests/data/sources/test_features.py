"""Every format of region features: the same numbers arrive in the batch, one image at a time, and faults are named."""

import gzip
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.features import FeatureReader, list_features
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.join import Join
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError
from tests.data.sources.feature_files import TEXT, WRITERS, write_npz_folder, write_tsv
from tests.data.sources.reading import read_features


def sizes_of(records: list[ImageRecord]) -> ImageSizes:
    return ImageSizes((record.image_id, (record.width, record.height)) for record in records)


def by_id(records: Iterator[ImageRecord]) -> dict[str, ImageRecord]:
    return {record.image_id: record for record in records}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_arrives_bit_for_bit(
    name: str, dtype: str, records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    path = WRITERS[name](tmp_path, records)
    read = read_features([path], sizes_of(records))
    asked = {record.image_id: list(record.questions) for record in records}
    write_shards(Join(read, asked), tmp_path / "set", replace(info, feature_dtype=dtype))
    (batch,) = EvalStream(ShardSet.open(tmp_path / "set"), batch_size=13)
    expected = {record.image_id: record for record in records}
    assert set(batch.image_ids) == set(expected)
    for row, image_id in enumerate(batch.image_ids):
        record, kept = expected[image_id], np.flatnonzero(batch.box_mask_BN[row])
        assert len(kept) == len(record.boxes)
        np.testing.assert_array_equal(batch.boxes_BN4[row, kept], record.boxes)
        np.testing.assert_array_equal(batch.features_BND[row, kept], record.features.astype(dtype))
        assert batch.sizes_B2[row].tolist() == [record.width, record.height]


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in TEXT])
def test_half_precision_stays_as_stored(name: str, records: list[ImageRecord], tmp_path: Path) -> None:
    halves = [replace(record, features=record.features.astype(np.float16)) for record in records]
    read = by_id(read_features([WRITERS[name](tmp_path, halves)], sizes_of(records)))
    for record in halves:
        assert read[record.image_id].features.dtype == np.float16
        np.testing.assert_array_equal(read[record.image_id].features, record.features)


def test_several_paths_of_different_formats_follow_each_other(records: list[ImageRecord], tmp_path: Path) -> None:
    paths = [write_tsv(tmp_path, records[:3]), write_npz_folder(tmp_path, records[3:])]
    assert [record.image_id for record in read_features(paths, ImageSizes())] == [each.image_id for each in records]
    with pytest.raises(UserError, match="'img000' comes a second time"):
        list(Join(read_features([paths[0]] * 2, ImageSizes()), {"img000": list(records[0].questions)}))


def test_a_place_inside_a_zip(records: list[ImageRecord], tmp_path: Path) -> None:
    path = WRITERS["VL-BERT zip"](tmp_path, records)
    everything = list(by_id(read_features([path], ImageSizes())))
    assert everything == [record.image_id for record in records]
    assert list(by_id(read_features([Path(f"{path}@/genome")], ImageSizes()))) == everything
    (one,) = read_features([Path(f"{path}@/genome/img002.json")], ImageSizes())
    assert (one.image_id, one.origin) == ("img002", f"{path}/genome/img002.json")


def test_a_gzip_tsv_and_a_folder_of_parts(records: list[ImageRecord], tmp_path: Path) -> None:
    plain = write_tsv(tmp_path, records).read_bytes()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/a.tsv.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "parts/notes.txt").write_text("not features")
    assert len(list(read_features([tmp_path / "parts"], ImageSizes()))) == len(records)


def some_file(name: str, content: bytes = b"") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return folder / name

    return make


def cut_zip(folder: Path) -> Path:
    (folder / "x.zip").write_bytes(b"PK\x03\x04 cut")
    return folder / "x.zip"


def zipped_tsv(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("x.tsv", "")
    return folder / "x.zip"


def damaged_member(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("d/7.json", '{"num_boxes": 1}')
    content = (folder / "x.zip").read_bytes()
    (folder / "x.zip").write_bytes(content.replace(b"num_boxes", b"mun_boxes", 1))
    return folder / "x.zip"


def packed_otherwise(folder: Path) -> Path:
    """A zip whose one member says that it is packed in a way nobody knows."""
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("d/7.json", "{}")
    content = (folder / "x.zip").read_bytes()
    (folder / "x.zip").write_bytes(
        content.replace(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0\x63\0")
    )
    return folder / "x.zip"


def newer_zip(folder: Path) -> Path:
    """A zip whose one member needs a program that is yet to be written."""
    damaged_member(folder)
    content = (folder / "x.zip").read_bytes()
    (folder / "x.zip").write_bytes(content.replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff"))
    return folder / "x.zip"


@pytest.mark.parametrize("name", WRITERS)
def test_a_reader_reads_in_any_order_and_in_another_process(
    name: str, make_image: Callable[..., ImageRecord], tmp_path: Path
) -> None:
    """What travels are names and places; files are opened where the reader arrives."""
    records = [make_image(number, feature_dim=2048) for number in range(3)]
    listed = list(list_features([WRITERS[name](tmp_path, records)]))
    reader = FeatureReader(sizes_of(records))
    whole = {image.image_id: reader(image) for image in listed}
    arrived, images = pickle.loads(pickle.dumps((reader, listed[::-1])))
    for image in images:
        found = arrived(image)
        assert (found.image_id, found.origin) == (image.image_id, whole[image.image_id].origin)
        np.testing.assert_array_equal(found.features, whole[image.image_id].features)
    assert len(pickle.dumps(listed)) < records[0].features.nbytes / 10


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / "absent", "cannot read '.*absent': no such file"),
    "an unknown ending": (some_file("x.csv"), r"no region features at '.*x\.csv'.*\.tsv, .*\.npz.*\.hdf5$"),
    "a folder without features": (lambda folder: folder, "no region features at"),
    "LMDB": (some_file("x.lmdb/data.mdb"), r"data\.mdb' holds pickled Python .* any code .* np\.savez"),
    "an LMDB file": (some_file("x.lmdb"), r"x\.lmdb' holds pickled Python"),
    "a cut zip": (cut_zip, r"x\.zip' is no whole zip"),
    "nothing there in the zip": (lambda folder: Path(f"{zipped_tsv(folder)}@/y"), r"no 'y' in '.*x\.zip'"),
    "a TSV in a zip": (zipped_tsv, r"x\.zip/x\.tsv' lies in a zip; unpack it"),
    "an unknown packing": (packed_otherwise, r"x\.zip/d/7\.json' cannot be read \(That compression method"),
    "a newer zip": (newer_zip, r"x\.zip' is no whole zip \(zip file version"),
    "a damaged member": (damaged_member, r"x\.zip/d/7\.json' cannot be read \(Bad CRC"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_feature_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        list(read_features([make(tmp_path)], ImageSizes()))


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "LXMERT TSV"])
def test_memory_does_not_grow_with_the_number_of_images(
    name: str, make_image: Callable[..., ImageRecord], tmp_path: Path
) -> None:
    """Four times the images may add their names, not their features: less than one image's worth."""
    peaks = []
    for images in (16, 64):
        records = [make_image(number, boxes=24, feature_dim=4096) for number in range(images)]
        folder = tmp_path / str(images)
        folder.mkdir()
        path, sizes = WRITERS[name](folder, records), sizes_of(records)
        one_image = records[0].features.nbytes
        del records
        next(read_features([path], sizes))  # what is loaded once only
        tracemalloc.start()
        for _ in read_features([path], sizes):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < one_image


def test_the_real_tsv_rewritten_in_every_format(shared_data: Path, tmp_path: Path) -> None:
    real = shared_data / "coco_train2014_obj36" / "train2014_obj36.tsv"
    records = sorted(read_features([real], ImageSizes()), key=lambda record: record.image_id)
    for number, (name, write) in enumerate(WRITERS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        read = by_id(read_features([write(folder, records)], sizes_of(records)))
        assert list(read) == [record.image_id for record in records], name
        for record in records:
            np.testing.assert_array_equal(read[record.image_id].features, record.features)
            np.testing.assert_array_equal(read[record.image_id].boxes, record.boxes)
