"""Every readable format from files to a trained model: converted by the command, streamed, two updates, an evaluation.

Mirrors no single module: commands.shards, the readers, stream and trainer hold this together. The 60,000 real questions
go the same way but for the training.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_ft.build import build
from adaptive_ft.cli import run_command
from adaptive_ft.config import load_run_config
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.tasks.vqa_accuracy import AccuracyMeter, best_constant_answer
from adaptive_ft.trainer import Trainer
from tests.data.sources.feature_files import WRITERS
from tests.data.sources.reading import read_vqa_json

Tiny = Callable[..., list[str]]
NAMES = [f"COCO_val2014_{number:012d}" for number in range(1, 9)]
SENTENCES = ("what colour is it", "is it large", "how many are there")
ANSWERS = ("red", "yes", "2")
SIZES = (
    *("--model.name", "None", "--model.hidden_size", "16", "--model.num_attention_heads", "2"),
    *("--model.intermediate_size", "16", "--model.language_layers", "1", "--model.region_layers", "1"),
    *("--model.cross_layers", "1", "--model.max_position_embeddings", "24", "--max_steps", "2"),
)


@pytest.fixture
def images() -> list[ImageRecord]:
    random = np.random.default_rng(0)
    box = np.array([[1, 2, 30, 40], [5, 5, 50, 45]], dtype=np.float32)
    features = random.standard_normal((len(NAMES), 2, 6)).astype(np.float32)
    return [ImageRecord(name, 60, 50, box, part, ()) for name, part in zip(NAMES, features, strict=True)]


def asked() -> list[dict[str, Any]]:
    return [
        {"question_id": 10 * image + place, "image_id": image, "name": NAMES[image - 1], "text": text}
        for image in range(1, len(NAMES) + 1)
        for place, text in enumerate(SENTENCES)
    ]


def write_vqa(folder: Path) -> list[str | Path]:
    questions = [
        {**{key: entry[key] for key in ("question_id", "image_id")}, "question": entry["text"]} for entry in asked()
    ]
    annotations = [
        {
            **{key: entry[key] for key in ("question_id", "image_id")},
            "question_type": entry["text"].split()[0],
            "answer_type": "other",
            "answers": [{"answer": ANSWERS[place % 3], "answer_id": number} for number in range(1, 11)],
        }
        for place, entry in enumerate(asked())
    ]
    subtype = {"data_subtype": "val2014"}
    (folder / "questions.json").write_text(json.dumps({"questions": questions, **subtype}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations, **subtype}))
    return ["--source.questions", folder / "questions.json", "--source.annotations", folder / "annotations.json"]


def write_vqacp(folder: Path) -> list[str | Path]:
    """The official entries as bare lists, each with its coco_split."""
    words = write_vqa(folder)
    for name in ("questions", "annotations"):
        content = json.loads((folder / f"{name}.json").read_text())[name]
        (folder / f"{name}.json").write_text(json.dumps([{**entry, "coco_split": "val2014"} for entry in content]))
    return words


def write_lxmert(folder: Path) -> list[str | Path]:
    entries = [
        {
            "question_id": entry["question_id"],
            "img_id": entry["name"],
            "sent": entry["text"],
            "label": {ANSWERS[place % 3]: 1},
        }
        for place, entry in enumerate(asked())
    ]
    (folder / "train.json").write_text(json.dumps(entries))
    return ["--source.lxmert_json", folder / "train.json"]


def write_gqa(folder: Path) -> list[str | Path]:
    entries = {
        str(entry["question_id"]): {
            "imageId": entry["name"],
            "question": entry["text"],
            "answer": ANSWERS[place % 3],
            "types": {"structural": "query"},
        }
        for place, entry in enumerate(asked())
    }
    (folder / "gqa.json").write_text(json.dumps(entries))
    return ["--source.gqa_json", folder / "gqa.json"]


QUESTIONS = {"VQA v2": write_vqa, "VQA-CP": write_vqacp, "LXMERT": write_lxmert, "GQA": write_gqa}
PAIRS = [
    *((features, "VQA v2") for features in WRITERS),
    *(("LXMERT TSV", name) for name in QUESTIONS if name != "VQA v2"),
]


@pytest.mark.parametrize(("features", "questions"), PAIRS)
def test_files_of_every_format_are_trained_on(
    features: str, questions: str, images: list[ImageRecord], tiny: Tiny, ranks: Ranks, tmp_path: Path
) -> None:
    train_words(SENTENCES).save_pretrained(tmp_path / "words")
    (tmp_path / "sizes.json").write_text(json.dumps({name: {"width": 60, "height": 50} for name in NAMES}))
    words = [
        *("--output", tmp_path / "set", "--tokenizer", tmp_path / "words", "--min_answer_count", "1"),
        *("--features", WRITERS[features](tmp_path, images), "--image_sizes", tmp_path / "sizes.json"),
        *QUESTIONS[questions](tmp_path),
    ]
    run_command(["shards", *map(str, words)])
    data = ("--data.train", str(tmp_path / "set"), "--data.val", str(tmp_path / "set"))
    run = build(load_run_config(tiny("format", *SIZES, *data, "--output_dir", str(tmp_path / "runs"))), ranks)
    summary = Trainer(run).fit()
    assert run.parts.train_shards.num_examples == len(NAMES) * len(SENTENCES)
    assert sorted(run.parts.task.answer_table) == sorted(ANSWERS)
    assert run.engine.updates == 2
    assert 0 <= summary["val_score"] <= 1
    assert summary["best_constant"]["score"] == pytest.approx(1 / len(ANSWERS), abs=1e-3)


def test_sixty_thousand_real_questions_are_sharded_streamed_and_scored(shared_data: Path, tmp_path: Path) -> None:
    """Each once over four ranks; the most frequent answer scores as counted straight from the source."""
    real = shared_data / "vqa_v2_subset60k"
    words, source = [], []
    for split in ("train", "valid", "test"):
        files = real / f"vqa_questions_{split}.gzip", real / f"vqa_annotatons_{split}.gzip"
        words.append(("--source.questions", files[0], "--source.annotations", files[1]))
        source += [question for listed in read_vqa_json(*files, coco_split="train2014").values() for question in listed]
    options = [word for place in (0, 2) for word in (words[0][place], *(pair[place + 1] for pair in words))]
    run_command(["shards", "--output", str(tmp_path / "set"), *map(str, options), "--source.coco_split", "train2014"])
    manifest = verify(tmp_path / "set")
    shards = ShardSet.open(tmp_path / "set").with_blind()
    constant = best_constant_answer(source, manifest.answer_table)
    meter = AccuracyMeter()
    for rank in range(4):
        for batch in EvalStream(shards, batch_size=999, rank=rank, world_size=4):
            soft = [question.scores.get(constant.answer, 0.0) for question in batch.questions]
            meter.update(batch.questions, [constant.answer] * len(soft), soft, batch.valid_B.tolist())
    report = meter.report(expected=60_000)
    assert report.overall.official == pytest.approx(constant.score.official)
    assert report.overall.soft == pytest.approx(constant.score.soft)
    assert {question.question_id for question in source} == set(meter.records)
