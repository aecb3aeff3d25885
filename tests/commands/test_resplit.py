"""adaptive-ft resplit: parts in VQA-CP's form that become shards, every entry as it was, and the priors that differ."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.cli import run_command
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.sources.prior_shift import PARTS
from adaptive_ft.errors import UserError

Entries = list[dict[str, Any]]
ANSWERS = {"is the": ["yes", "no"], "what color": ["red", "white", "blue"]}


@pytest.fixture(scope="module")
def made() -> tuple[Entries, Entries]:
    """400 questions about 200 images, and what people answered."""
    draw = random.Random(3)
    questions, annotations = [], []
    for place in range(400):
        image = draw.randrange(200)
        kind = draw.choice(list(ANSWERS))
        answers = [{"answer": draw.choice(ANSWERS[kind]), "answer_id": 1, "answer_confidence": "maybe"}] * 10
        same = {"image_id": image, "question_id": image * 1000 + place}
        questions.append(same | {"question": f"{kind} café?"})
        told = {"question_type": kind, "answer_type": "other", "multiple_choice_answer": answers[0]["answer"]}
        annotations.append(same | told | {"answers": answers})
    return questions, annotations


@pytest.fixture
def files(made: tuple[Entries, Entries], tmp_path: Path) -> list[str]:
    """The options that name them: two pairs of files, annotations in another order, one of them packed."""
    questions, annotations = made
    words: dict[str, list[str]] = {"questions": [], "annotations": []}
    for number, cut in enumerate((slice(0, 250), slice(250, None))):
        for kind, entries in (("questions", questions[cut]), ("annotations", annotations[cut][::-1])):
            path = tmp_path / f"{kind}{number}.json"
            content = json.dumps({"data_subtype": "val2014", kind: entries}).encode()
            path.write_bytes(gzip.compress(content) if number else content)
            words[kind].append(str(path))
    return ["--questions", *words["questions"], "--annotations", *words["annotations"]]


def read(folder: Path, kind: str) -> dict[str, Entries]:
    return {part: json.loads((folder / f"{part}_{kind}.json").read_text(encoding="utf-8")) for part in PARTS}


def test_the_parts_hold_the_entries_as_they_were(
    files: list[str], made: tuple[Entries, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(["resplit", "--output", str(tmp_path / "parts"), *files])
    told = capsys.readouterr().out
    questions, annotations = (read(tmp_path / "parts", kind) for kind in ("questions", "annotations"))
    assert len(list((tmp_path / "parts").iterdir())) == 2 * len(PARTS)
    for found, given in ((questions, made[0]), (annotations, made[1])):
        by_number = {entry["question_id"]: entry | {"coco_split": "val2014"} for entry in given}
        for part, entries in found.items():
            assert entries == [by_number[entry["question_id"]] for entry in entries]
            asked_about = len({entry["image_id"] for entry in entries})
            assert re.search(rf"^{part} +{len(entries)} questions +{asked_about} images$", told, re.MULTILINE)
    for part in PARTS:
        asked_in, told_in = ({entry["question_id"] for entry in found[part]} for found in (questions, annotations))
        assert asked_in == told_in
    assert f"left out: {400 - sum(map(len, questions.values()))} questions" in told
    assert "target_val 1.000, target_val_indomain 0." in told


def test_the_parts_become_shards(files: list[str], tmp_path: Path) -> None:
    parts, train = tmp_path / "parts", tmp_path / "train"
    run_command(["resplit", "--output", str(parts), "--shares.crossing", "0.2", *files])
    for part, own in (("source_train", ["--tokenizer", "org/none"]), ("target_val", ["--like", str(train)])):
        named = [f"{parts}/{part}_questions.json", "--source.annotations", f"{parts}/{part}_annotations.json"]
        output = train if part == "source_train" else tmp_path / "val"
        run_command(["shards", "--output", str(output), "--split", part, "--source.questions", *named, *own])
    assert ShardSet.open(tmp_path / "val").num_examples == len(read(parts, "questions")["target_val"])


def test_the_seed_says_which_parts_there_are(files: list[str], tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run_command(["resplit", "--output", str(tmp_path / name), "--seed", seed, *files])
    first, again, other = (read(tmp_path / name, "annotations") for name in "abc")
    assert first == again
    assert all(first[part] != other[part] for part in PARTS)


def test_what_cannot_be_divided_is_refused_and_leaves_nothing(files: list[str], tmp_path: Path) -> None:
    place = len(files) // 2
    with pytest.raises(UserError, match="name --questions and --annotations"):
        run_command(["resplit", "--output", str(tmp_path / "new"), *files[:place], "--annotations"])
    with pytest.raises(UserError, match="leave nothing for target_val and target_val_indomain"):
        run_command(["resplit", "--output", str(tmp_path / "new"), "--shares.val", "0.001", *files])
    with pytest.raises(UserError, match=r"The share 'val' is 2\.0"):
        run_command(["resplit", "--output", str(tmp_path / "new"), "--shares.val", "2", *files])
    with pytest.raises(UserError, match="is not empty"):
        run_command(["resplit", "--output", str(tmp_path), *files])
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_real_questions_differ_in_their_priors(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "vqa_v2_subset60k"
    words = [str(real / "vqa_questions_test.gzip"), "--annotations", str(real / "vqa_annotatons_test.gzip")]
    run_command(["resplit", "--output", str(tmp_path / "parts"), "--coco_split", "train2014", "--questions", *words])
    told = capsys.readouterr().out
    assert "2962 questions about" in told
    indomain = re.search(r"target_val 1\.000.*target_val_indomain (0\.\d+)", told)
    assert indomain is not None
    assert float(indomain[1]) < 0.6
