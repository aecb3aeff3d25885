"""The table of bad data: whatever is wrong is detected, named and counted, and nothing half-read reaches a batch.

Damage to a shard is done as in nature: bytes cut, flipped or zeroed. webdataset passes over several of these in silence
(a cut between members, a header that does not parse, zero blocks, a flipped payload byte); none gets through here.
"""

import logging
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from adaptive_ft.data.answers import count_outside
from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.bad_samples import DamagedSample, SkipBad, StopAtBad
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.reading.stream import EvalStream, TrainStream
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError

Damage = Callable[[Path, tarfile.TarInfo], None]
BLOCK = 512


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path, "r:") as tar:
        return {member.name: member for member in tar}


def overwrite(offset: Callable[[tarfile.TarInfo], int], content: bytes) -> Damage:
    def damage(path: Path, member: tarfile.TarInfo) -> None:
        with path.open("r+b") as file:
            file.seek(offset(member))
            file.write(content)

    return damage


def cut_at(offset: Callable[[tarfile.TarInfo], int]) -> Damage:
    def damage(path: Path, member: tarfile.TarInfo) -> None:
        path.write_bytes(path.read_bytes()[: offset(member)])

    return damage


def drop_member(path: Path, member: tarfile.TarInfo) -> None:
    """The tar file without this member, and as long as before."""
    content = path.read_bytes()
    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
    path.write_bytes((content[: member.offset] + content[end:]).ljust(len(content), b"\0"))


def data(member: tarfile.TarInfo) -> int:
    return member.offset_data


def header(member: tarfile.TarInfo) -> int:
    return member.offset


# What happens to the member features.f16 of image img003, in the second shard: how it is done, the message on opening
# the set, None where that finds nothing, and the one on verifying.
SAMPLE, SHARD = "img003.features.f16", "shard-00001.tar"
ONE_OF_TWO = r"shard-00001\.tar does not match the manifest.* 1 of its 2 samples are damaged, the first is 'img003'"
CUT = r"shard-00001\.tar has \d+ bytes, the manifest says \d+.* 1 of its 2 samples .* cut off, the first is number 1"
TABLE: dict[str, tuple[Damage, str | None, str]] = {
    "cut within a member": (cut_at(lambda member: member.offset_data + 3), CUT, CUT),
    "cut between members": (cut_at(header), CUT, CUT),
    "cut within a header": (cut_at(lambda member: member.offset + 100), CUT, CUT),
    "an empty file": (cut_at(lambda _: 0), r"shard-00001\.tar has 0 bytes.* 2 of its 2 samples", "has 0 bytes"),
    "a member is missing": (drop_member, None, r"shard-00001\.tar does not match the manifest"),
    "one payload byte flipped": (overwrite(data, b"\x7f"), None, ONE_OF_TWO),
    "not a number": (overwrite(data, np.float16(np.nan).tobytes()), None, ONE_OF_TWO),
    "infinity": (overwrite(data, np.float16(np.inf).tobytes()), None, ONE_OF_TWO),
    "zero blocks within the data": (overwrite(data, bytes(20)), None, ONE_OF_TWO),
}


@pytest.mark.parametrize("name", TABLE)
def test_damage_in_a_sample_is_named_and_never_read(name: str, shard_folder: Path) -> None:
    damage, opening, verifying = TABLE[name]
    damage(shard_folder / SHARD, members(shard_folder / SHARD)[SAMPLE])
    with pytest.raises(UserError, match=verifying):
        verify(shard_folder)
    if opening is not None:
        with pytest.raises(UserError, match=opening):
            ShardSet.open(shard_folder)
        return
    with pytest.raises(DamagedSample, match=r"shard-00001\.tar, (sample 'img003'|image number \d): its member"):
        list(EvalStream(ShardSet.open(shard_folder), batch_size=4))


@pytest.mark.parametrize("content", [b"\xff", bytes(BLOCK)], ids=["a flipped header byte", "a header of zeros"])
def test_a_damaged_header_hides_nothing_from_us(content: bytes, shard_folder: Path) -> None:
    """Tar readers lose samples without a word; the index does not need the header, and verifying finds it."""
    whole = list(EvalStream(ShardSet.open(shard_folder), batch_size=4))
    overwrite(header, content)(shard_folder / SHARD, members(shard_folder / SHARD)["img003.boxes.f32"])
    lost = webdataset.WebDataset([str(shard_folder / SHARD)], shardshuffle=False, handler=webdataset.reraise_exception)
    assert len([sample for sample in lost if "boxes.f32" in sample]) < 2, "the reason for this test"
    with pytest.raises(UserError, match=r"shard-00001\.tar does not match .* the damage lies in a tar header"):
        verify(shard_folder)
    read = list(EvalStream(ShardSet.open(shard_folder), batch_size=4))
    for ours, before in zip(read, whole, strict=True):
        assert torch.equal(ours.features_BND, before.features_BND)
        assert torch.equal(ours.boxes_BN4, before.boxes_BN4)
        assert ours.questions == before.questions


def shards_of_one_question(make_image: Callable[..., ImageRecord], info: ShardInfo, folder: Path) -> ShardSet:
    """40 questions on 40 images, 10 in a shard; the features of images 3 and 25 are damaged."""
    write_shards([make_image(number, questions=1) for number in range(40)], folder, info, images_per_shard=10)
    for shard, image in ((0, 3), (2, 25)):
        path = folder / f"shard-{shard:05d}.tar"
        overwrite(data, b"\x7f")(path, members(path)[f"img{image:03d}.features.f16"])
    return ShardSet.open(folder)


def test_damaged_samples_are_left_out_and_counted(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows of all other samples stay where they were, and the row of a damaged one holds nothing."""
    shards = shards_of_one_question(make_image, info, tmp_path / "set")
    stream = TrainStream(shards, batch_size=10, seed=1, readers=2, bad=SkipBad(0.05, shards.num_examples))
    with caplog.at_level(logging.WARNING):
        batches = list(islice(stream, 8))  # two epochs
    stream.close()
    assert len(stream.bad.left_out) == 2
    assert len(caplog.messages) == 2
    assert "shard-00000.tar, sample 'img003': its member 'features' is not what was written" in caplog.text
    for epoch in (batches[:4], batches[4:]):
        asked = [
            question.question_id
            for batch in epoch
            for question, valid in zip(batch.questions, batch.valid_B.tolist(), strict=True)
            if valid
        ]
        assert sorted(asked) == sorted({100 * number for number in range(40)} - {300, 2500})
    left_out = torch.cat([batch.features_BND[~batch.valid_B] for batch in batches])
    assert left_out.shape == (4, 3, 5)
    assert not left_out.any()


def test_too_many_damaged_samples_stop_the_training(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    shards = shards_of_one_question(make_image, info, tmp_path / "set")
    stream = TrainStream(shards, batch_size=10, bad=SkipBad(0.025, shards.num_examples))
    told = (
        r"its member 'features' .* 2 of 40 examples are damaged, and --data.max_bad_share 0.025 allows no more than 1 "
    )
    with pytest.raises(UserError, match=told):
        list(islice(stream, 4))
    with pytest.raises(DamagedSample):
        list(islice(TrainStream(shards, batch_size=10, bad=StopAtBad()), 4))


def test_an_evaluation_never_leaves_out_a_question(
    make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    with pytest.raises(DamagedSample, match="sample 'img003'"):
        list(EvalStream(shards_of_one_question(make_image, info, tmp_path / "set"), batch_size=10))


def test_the_cap_is_one_on_what_all_ranks_have_met() -> None:
    bad = SkipBad(0.29, 100)
    for example in range(20):
        bad.met(example, DamagedSample("damaged"))
    bad.add(range(10, 29))
    assert bad.left_out == frozenset(range(29)), "0.29 of 100 are 29"
    with pytest.raises(UserError, match=r"30 of 100 examples are damaged, .* allows no more than 29"):
        bad.add([99])


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(UserError, match=r"max_bad_share is .*, from 0 to 1"):
        SkipBad(share, 10)


def with_question(record: ImageRecord, **changes: object) -> ImageRecord:
    first, *others = record.questions
    return replace(record, questions=(replace(first, **changes), *others))  # type: ignore[arg-type]


def with_regions(record: ImageRecord, **changes: object) -> ImageRecord:
    return replace(record, **changes)  # type: ignore[arg-type]


def bad_number(record: ImageRecord, value: float) -> ImageRecord:
    features_ND = record.features.copy()
    features_ND[1, 2] = value
    return replace(record, features=features_ND)


def outside(record: ImageRecord) -> ImageRecord:
    return replace(record, boxes=record.boxes + np.float32(60))


def same_number(record: ImageRecord) -> ImageRecord:
    first = record.questions[0]
    return replace(record, questions=(first, Question(first.question_id, "again?", "", "other", first.answers, {})))


# What a source may hand over, and how the writer of shards refuses it.
RECORDS: dict[str, tuple[Callable[[ImageRecord], ImageRecord], str]] = {
    "not a number": (lambda record: bad_number(record, np.nan), "features of region 1 hold NaN or infinity"),
    "infinity": (lambda record: bad_number(record, np.inf), "features of region 1 hold NaN or infinity"),
    "a box outside": (outside, "box 0 .* lies outside the 100 x 50 picture"),
    "a wrong number of features": (
        lambda record: with_regions(record, features=record.features[:-1]),
        "3 boxes but 2 feature vectors",
    ),
    "an empty question": (lambda record: with_question(record, text=" "), "question 500 has no text"),
    "another number of answers": (
        lambda record: with_question(record, answers=("red",)),
        "question 500 has 1 answers; give ten",
    ),
    "a question number twice": (same_number, "question 500 stands there twice"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_bad_record_is_refused_by_name(
    name: str, make_image: Callable[..., ImageRecord], info: ShardInfo, tmp_path: Path
) -> None:
    change, message = RECORDS[name]
    with pytest.raises(UserError, match=rf"image 'img005'.*: .*{message}"):
        write_shards([make_image(4), change(make_image(5))], tmp_path / "set", info)
    assert not any(tmp_path.iterdir()), "and nothing is left that looks whole"


def test_an_unknown_answer_is_counted_and_told(make_image: Callable[..., ImageRecord], info: ShardInfo) -> None:
    """It is no damage: nothing can be learned from the question, and its score is 0."""
    known = make_image(4).questions
    unknown = with_question(make_image(5), answers=("mauve",) * 10, scores={}).questions[:1]
    assert count_outside([*known, *unknown], info.answer_table) == (1, len(known) + 1)


def test_verifying_names_every_damaged_shard(shard_folder: Path) -> None:
    for number in (0, 2):
        path = shard_folder / f"shard-{number:05d}.tar"
        overwrite(data, b"\xff")(path, next(iter(members(path).values())))
    (shard_folder / "shard-00003.tar").unlink()
    names = r".*shard-00000\.tar does not .*shard-00002\.tar does not .*shard-00003\.tar is missing"
    told = rf"(?s)3 of 4 shards in .* are damaged:\n{names}"
    with pytest.raises(UserError, match=told):
        verify(shard_folder)
