"""Official VQA v2 and VQA-CP files: ids, answers, scores; mismatches named by question."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.data.answers import build_answer_table
from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.sources.join import records_without_regions
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.errors import UserError
from tests.data.sources.reading import read_vqa_json

ANSWERS = ["yes"] * 8 + ["Yes.", "no"]


def questions() -> dict[str, Any]:
    asked = [(25, 25001, "Is it?"), (77, 77000, "Who?"), (25, 25002, "Why?")]
    entries = [{"image_id": image, "question_id": number, "question": text} for image, number, text in asked]
    return {"data_subtype": "val2014", "questions": entries}


def annotations() -> dict[str, Any]:
    answers = [{"answer": answer, "answer_id": place} for place, answer in enumerate(ANSWERS, start=1)]
    return {
        "annotations": [
            {"question_id": entry["question_id"], "question_type": "is", "answer_type": "yes/no", "answers": answers}
            for entry in reversed(questions()["questions"])
        ]
    }


def write(folder: Path, asked: Any, answered: Any) -> tuple[Path, Path]:
    paths = folder / "questions.json", folder / "annotations.json"
    for path, content in zip(paths, (asked, answered), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_questions_by_image_in_file_order(tmp_path: Path) -> None:
    by_image = read_vqa_json(*write(tmp_path, questions(), annotations()))
    assert list(by_image) == ["COCO_val2014_000000000025", "COCO_val2014_000000000077"]
    first, second = by_image["COCO_val2014_000000000025"]
    assert (first.question_id, second.question_id, second.text) == (25001, 25002, "Why?")
    assert (first.question_type, first.answer_type, first.answers) == ("is", "yes/no", tuple(ANSWERS))
    assert first.scores == {"yes": 1.0, "no": 0.3}


def test_the_split_can_be_given(tmp_path: Path) -> None:
    paths = write(tmp_path, questions(), annotations())
    assert "COCO_train2014_000000000077" in read_vqa_json(*paths, coco_split="train2014")
    asked = questions()
    del asked["data_subtype"]
    with pytest.raises(UserError, match="give coco_split"):
        read_vqa_json(*write(tmp_path, asked, annotations()))


def test_a_test_split_has_no_annotations(tmp_path: Path) -> None:
    path, _ = write(tmp_path, questions(), annotations())
    (question,) = read_vqa_json(path, None)["COCO_val2014_000000000077"]
    assert (question.answers, question.scores) == ((), {})


def test_vqacp_lists_carry_the_split_per_question(tmp_path: Path) -> None:
    asked = [{**entry, "coco_split": "train2014"} for entry in questions()["questions"]]
    by_image = read_vqa_json(*write(tmp_path, asked, annotations()["annotations"]))
    assert list(by_image) == ["COCO_train2014_000000000025", "COCO_train2014_000000000077"]


def test_gzip_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    paths = write(tmp_path, questions(), annotations())
    plain = read_vqa_json(*paths)
    for path in paths:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_vqa_json(*paths) == plain


def damaged(name: str) -> tuple[Any, Any]:
    asked, answered = questions(), annotations()
    entries = answered["annotations"]
    if name == "missing annotation":
        del entries[1]
    elif name == "no answers":
        entries[1]["answers"] = []
    elif name == "nine answers":
        entries[1]["answers"] = entries[1]["answers"][:9]
    elif name == "extra annotation":
        entries.append({**entries[0], "question_id": 1})
    elif name == "annotated twice":
        entries.append(entries[0])
    elif name == "no text":
        del asked["questions"][1]["question"]
    elif name == "no id":
        del asked["questions"][1]["question_id"]
    elif name == "asked twice":
        asked["questions"].append(asked["questions"][0])
    elif name == "exchanged files":
        return answered, asked
    return asked, answered


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing annotation", r"question 77000 of .*questions\.json has no answers in .*annotations\.json"),
        ("no answers", r"question 77000 of .*questions\.json has no answers"),
        ("nine answers", "question 77000: 9 answers, expected 10"),
        ("extra annotation", "answers 1 questions that .* does not ask, first 1"),
        ("annotated twice", "answers question 25002 twice"),
        ("no text", "question 77000: key 'question' is missing"),
        ("no id", "without a whole question_id"),
        ("asked twice", r"questions\.json asks question 25001 twice"),
        ("exchanged files", r"annotations\.json has no list of annotations"),
    ],
)
def test_mismatches_are_named(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_vqa_json(*write(tmp_path, *damaged(name)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": 3}, r"questions\.json, question 25001: 'question' is 3, expected a text"),
        ({"question": None}, "question 25001: 'question' is None, expected a text"),
        ({"question": "\ud800"}, "question 25001: 'question' holds half a character"),
        ({"image_id": float("inf")}, "question 25001: 'image_id' is inf, expected a whole number"),
        ({"image_id": 2.5}, "question 25001: 'image_id' is 2.5, expected a whole number"),
        ({"coco_split": ["train2014"]}, r"question 25001: 'coco_split' is \['train2014'\], expected a text"),
    ],
)
def test_questions_of_other_types_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked = questions()
    asked["questions"][0] |= changes
    with pytest.raises(UserError, match=message):
        read_vqa_json(*write(tmp_path, asked, annotations()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": [{"answer": 3}] * 10}, "question 77000: 'answer' is 3, expected a text"),
        ({"answers": [{"answer": None}] * 10}, "question 77000: 'answer' is None, expected a text"),
        ({"answers": ["yes"] * 10}, "question 77000: 'yes' is no object with 'answer'"),
        ({"answers": {"yes": 10}}, r"question 77000: 'answers' is \{'yes': 10\}, expected a list"),
        ({"question_type": 5}, "question 77000: 'question_type' is 5, expected a text"),
        ({"answer_type": ["other"]}, r"question 77000: 'answer_type' is \['other'\], expected a text"),
    ],
)
def test_annotations_of_other_types_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    answered = annotations()
    answered["annotations"][1] |= changes
    with pytest.raises(UserError, match=message):
        read_vqa_json(*write(tmp_path, questions(), answered))


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\x1f\x8bnot gzip", b""])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    paths = write(tmp_path, questions(), annotations())
    paths[0].write_bytes(content)
    with pytest.raises(UserError, match=r"questions\.json' is not readable JSON"):
        read_vqa_json(*paths)


def test_real_questions_without_regions(shared_data: Path, tmp_path: Path) -> None:
    real, asked, images = shared_data / "vqa_v2_subset60k", 0, set()
    for split in ("train", "valid", "test"):
        by_image = read_vqa_json(
            real / f"vqa_questions_{split}.gzip", real / f"vqa_annotatons_{split}.gzip", coco_split="train2014"
        )
        asked += sum(map(len, by_image.values()))
        images |= set(by_image)
        assert all(question.scores for listed in by_image.values() for question in listed)
    assert (asked, len(images)) == (60000, 39423)
    table = build_answer_table((question for listed in by_image.values() for question in listed), min_count=9)
    info = ShardInfo("test", "vqa v2", "none", table)
    write_shards(records_without_regions(by_image), tmp_path / "set", info)
    shards = ShardSet.open(tmp_path / "set")
    assert shards.num_examples == 2962
    batch = next(iter(EvalStream(shards.with_blind(), batch_size=8)))
    expected = [question for listed in by_image.values() for question in listed][:8]
    assert batch.questions == expected


def test_real_vqacp_style_files(shared_data: Path) -> None:
    real = shared_data / "vqa_v2_official_small"
    by_image = read_vqa_json(real / "vqacp_style_train_questions.json", real / "vqacp_style_train_annotations.json")
    assert sum(map(len, by_image.values())) == 2000
    assert all(image.startswith("COCO_train2014_") for image in by_image)
