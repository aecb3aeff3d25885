"""Writing shards: reproducible bytes, readable by plain WebDataset, all or nothing."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.writing.bad_images import LeaveOutBadImages
from adaptive_ft.data.writing.shards import Writing, write_shards
from adaptive_ft.errors import UserError

PNG = b"\x89PNG\r\n\x1a\nnot decoded here"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_writing_twice_gives_the_same_bytes(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    write_shards(records, tmp_path / "one", info, images_per_shard=3)
    write_shards(iter(records), tmp_path / "two", info, images_per_shard=3)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert len(hashes(tmp_path / "one")) == 7  # 3 shards, 3 indexes, a manifest
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize(("feature_dtype", "ending"), [("float16", "f16"), ("float32", "f32")])
def test_plain_webdataset_reads_them(
    feature_dtype: str, ending: str, records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    records[0] = replace(records[0], picture=PNG)
    manifest = write_shards(records, tmp_path / "set", replace(info, feature_dtype=feature_dtype), images_per_shard=4)
    urls = [str(tmp_path / "set" / shard.file) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [record.image_id for record in records]
    for sample, record in zip(samples, records, strict=True):
        told = json.loads(sample["json"])
        boxes = np.frombuffer(sample["boxes.f32"], "<f4").reshape(told["boxes"])
        features = np.frombuffer(sample[f"features.{ending}"], feature_dtype).reshape(told["features"])
        np.testing.assert_array_equal(boxes, record.boxes)
        np.testing.assert_array_equal(features, record.features.astype(feature_dtype))
        assert [question["question_id"] for question in told["questions"]] == [
            question.question_id for question in record.questions
        ]
        assert told["questions"][0]["scores"] == {"red": 1.0, "blue": 0.3}
    assert samples[0]["picture.png"] == PNG
    assert "picture.png" not in samples[1]
    verify(tmp_path / "set")


def test_a_folder_in_use_is_left_alone(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match=r"is not empty; give a new or empty folder"):
        write_shards(records, tmp_path, info)
    assert hashes(tmp_path).keys() == {"precious.txt"}


def test_an_unfinished_set_is_replaced_but_nothing_else(
    records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    unfinished = tmp_path / "set.unfinished"
    unfinished.mkdir()
    (unfinished / "shard-00000.tar").write_bytes(b"half")
    (unfinished / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match=r"holds 'notes\.txt'"):
        write_shards(records, tmp_path / "set", info)
    (unfinished / "notes.txt").unlink()
    write_shards(records, tmp_path / "set", info)
    verify(tmp_path / "set")
    assert not unfinished.exists()


def test_an_error_in_the_source_leaves_nothing(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    def failing() -> Iterator[ImageRecord]:
        yield from records[:3]
        raise UserError("line 4 is damaged")

    with pytest.raises(UserError, match="line 4"):
        write_shards(failing(), tmp_path / "set", info, images_per_shard=2)
    assert list(tmp_path.iterdir()) == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from adaptive_ft.data import ImageRecord, Question, ShardInfo, write_shards

def records():
    for number in range(3):
        question = Question(number, "what?", "what", "other", ("red",) * 10, {})
        boxes = np.array([[0, 0, 5, 5]], dtype=np.float32)
        yield ImageRecord(f"i{number}", 9, 9, boxes, np.ones((1, 4), dtype=np.float32), (question,))
    os.kill(os.getpid(), signal.SIGKILL)

write_shards(records(), Path(sys.argv[1]), ShardInfo("train", "x", "ones", ["red"]), images_per_shard=2)
"""


def test_a_killed_writer_leaves_nothing_that_looks_whole(
    records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(folder)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "set.unfinished/set/shard-00000.tar").exists()
    for place in (folder, tmp_path / "set.unfinished"):
        with pytest.raises(UserError):
            ShardSet.open(place)
    write_shards(records, folder, info)  # the next run starts over
    assert ShardSet.open(folder).num_images == 7
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


Change = Callable[[list[ImageRecord]], list[ImageRecord]]
REFUSED: dict[str, tuple[Change, str]] = {
    "nothing": (lambda r: [], "no image with questions"),
    "image twice": (lambda r: [*r, r[0]], "'img000' comes twice"),
    "question twice": (
        lambda r: [*r, replace(r[0], image_id="other")],
        "'other': question 0 was asked about an earlier image",
    ),
    "too large": (lambda r: [replace(r[0], features=r[0].features * 0 + 7e4)], "70000 does not fit float16"),
    "picture": (lambda r: [replace(r[0], picture=b"GIF89a")], "neither PNG nor JPEG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_records_that_do_not_go_together(
    name: str, records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    change, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        write_shards(change(records), tmp_path / "set", info)
    assert list(tmp_path.iterdir()) == []


def test_feature_sizes_and_missing_regions_must_agree(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="features of size 4, the images before 5"):
        write_shards([make_image(0), make_image(1, feature_dim=4)], tmp_path / "set", info)
    with pytest.raises(UserError, match="some, or none"):
        write_shards([make_image(0), make_image(1, boxes=0)], tmp_path / "set", info)


def test_the_manifest_returned_is_the_one_written(shard_folder: Path, records: list[ImageRecord]) -> None:
    manifest = Manifest.load(shard_folder)
    assert [shard.images for shard in manifest.shards] == [2, 2, 2, 1]
    assert [shard.questions for shard in manifest.shards] == [3, 4, 5, 1]
    for shard in manifest.shards:
        content = (shard_folder / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)


def test_bytes_that_the_disk_lost_are_found_before_the_end(
    records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    """With `verify` everything written is read back."""

    def damage(images: int) -> None:
        path = tmp_path / "set.unfinished/set/shard-00000.tar"
        path.write_bytes(path.read_bytes().replace(b"what colour", b"what flavor"))

    with pytest.raises(UserError, match=r"shard-00000\.tar does not match the manifest"):
        write_shards(records, tmp_path / "set", info, how=Writing(verify=True, progress=damage))
    assert list(tmp_path.iterdir()) == []


def test_whole_shards_of_an_interrupted_run_are_kept(
    records: list[ImageRecord], info: ShardInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The images of a kept shard are not read again; with another plan nothing is kept."""

    def stopping(record: ImageRecord) -> ImageRecord:
        if record.image_id == "img005":
            raise KeyboardInterrupt
        return record

    read: list[str] = []

    def listing(record: ImageRecord) -> ImageRecord:
        read.append(record.image_id)
        return record

    write_shards(records, tmp_path / "whole", info, images_per_shard=2)
    for plan, again in (({"of": "it"}, 3), ({"of": "something else"}, 7)):
        with pytest.raises(KeyboardInterrupt):
            write_shards(
                records, tmp_path / "set", info, images_per_shard=2, read=stopping, how=Writing(plan={"of": "it"})
            )
        assert "2 whole shards are kept" in caplog.text
        for place in (tmp_path / "set.unfinished", tmp_path / "set.unfinished/set"):
            with pytest.raises(UserError):
                ShardSet.open(place)
        read.clear()
        write_shards(records, tmp_path / "set", info, images_per_shard=2, read=listing, how=Writing(plan=plan))
        assert len(read) == again
        assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")
        shutil.rmtree(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_bad_image_makes_its_shard_shorter(
    records: list[ImageRecord], info: ShardInfo, tmp_path: Path, make_image: Callable[..., ImageRecord]
) -> None:
    """The cut does not depend on what is found in the images; a shard of nothing but bad ones is none."""
    good = [record.image_id for record in records]
    for number in (0, 4, 5):
        records[number] = replace(records[number], width=1)
    records[6] = make_image(6, feature_dim=4)
    bad = LeaveOutBadImages(1.0, most_images=7)
    manifest = write_shards(records, tmp_path / "set", info, images_per_shard=2, how=Writing(bad=bad))
    assert [(entry.file, entry.images) for entry in manifest.shards] == [
        ("shard-00000.tar", 1),
        ("shard-00001.tar", 2),
    ]
    assert bad.left_out == 4
    (batch,) = EvalStream(ShardSet.open(tmp_path / "set"), batch_size=16)
    assert list(dict.fromkeys(batch.image_ids[: manifest.questions])) == good[1:4]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_first_image_that_cannot_be_stored_decides_about_no_other(
    processes: int, records: list[ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    """Its features have another size, and one of them is too large for float16."""
    too_large = np.full((len(records[0].boxes), 4), 7e4, dtype=np.float32)
    records[0] = replace(records[0], features=too_large)
    how = Writing(processes, bad=LeaveOutBadImages(1.0, most_images=7))
    manifest = write_shards(records, tmp_path / "set", info, images_per_shard=2, how=how)
    assert (manifest.images, manifest.feature_dim) == (6, 5)


class FailAtTheEnd(LeaveOutBadImages):
    """Good shards are written before it is known that too many images are bad."""

    def finish(self, images: int) -> None:
        raise UserError(f"{self.left_out} are too many")


def test_kept_shards_of_another_shape_are_written_again(
    records: list[ImageRecord], info: ShardInfo, tmp_path: Path, make_image: Callable[..., ImageRecord]
) -> None:
    """The first image was bad, and the second gave the shape; mended, the first gives another one."""
    broken = [replace(make_image(0, feature_dim=4), width=-1), *records[1:5]]
    how = Writing(plan={}, bad=FailAtTheEnd(1.0, most_images=5))
    with pytest.raises(UserError, match="too many"):
        write_shards(broken, tmp_path / "set", info, images_per_shard=1, how=how)
    mended = [make_image(0, feature_dim=4), *records[1:5]]
    with pytest.raises(UserError, match="has features of size 5, the images before 4"):
        write_shards(mended, tmp_path / "set", info, images_per_shard=1, how=Writing(plan={}))


def test_a_disk_without_room_is_told(records: list[ImageRecord], info: ShardInfo, tmp_path: Path) -> None:
    """Here files may only grow so large; the shards that fitted stay for the next run of the same command."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = replace(records[6], features=np.ones((2, 20_000), dtype=np.float32), boxes=records[6].boxes[:2])
    wide = [replace(record, features=np.ones((len(record.boxes), 20_000), np.float32)) for record in records[:2]]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"set\.unfinished' cannot be written to: File too large"):
            write_shards([large, *wide], tmp_path / "set", info, images_per_shard=1, how=Writing(plan={}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "set.unfinished/set/shard-00000.tar").exists()
    assert write_shards([large, *wide], tmp_path / "set", info, images_per_shard=1, how=Writing(plan={})).images == 3
