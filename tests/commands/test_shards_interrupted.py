"""adaptive-ft shards, killed and interrupted: nothing looks whole too early, whole shards are kept, nobody stays."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.cli import run_command
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.errors import UserError
from tests.commands.test_shards import ask
from tests.data.picture_files import write_picture
from tests.data.sources.feature_files import write_npz_folder, write_tsv

SHARDS, PER_SHARD = 30, 2


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command without its output, for images large enough that a shard takes a while."""
    random = np.random.default_rng(0)
    boxes = np.array([[place, 2, place + 10, 40] for place in range(36)], dtype=np.float32)
    features = random.standard_normal((36, 2048)).astype(np.float32)
    images = [ImageRecord(f"i{n}", 60, 50, boxes, features * n, ()) for n in range(SHARDS * PER_SHARD)]
    path = write_tsv(tmp_path, images)
    questions = ask(tmp_path / "questions.json", [image.image_id for image in images])
    return [
        *("shards", "--source.lxmert_json", questions, "--features", str(path), "--min_answer_count", "1"),
        *("--images_per_shard", str(PER_SHARD), "--output"),
    ]


def ended_at(shard: int, how: signal.Signals, words: list[str], output: Path, environment: dict[str, str]) -> str:
    """The real command, sent a signal as soon as this many shards are whole; what it wrote to its error output."""
    started = subprocess.Popen(
        [sys.executable, "-m", "adaptive_ft.cli", *words], env=environment, stderr=subprocess.PIPE, text=True
    )
    record = output.with_name("out.unfinished") / f"shard-{shard - 1:05d}.json"
    while started.poll() is None and not record.exists():
        time.sleep(0.001)
    children = children_of(started.pid)
    started.send_signal(how)
    told = started.communicate(timeout=60)[1]
    assert started.returncode == (130 if how == signal.SIGINT else -how), told
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.01)
    for place in (output, record.parent, record.parent / "set"):
        with pytest.raises(UserError):
            ShardSet.open(place)
    return told


def children_of(process: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").glob("*")
        for child in (task / "children").read_text().split()
    ]


@pytest.mark.launch
def test_runs_that_are_ended_again_and_again_become_the_set(
    words: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """By SIGKILL in one process and in two, by SIGTERM, and by Ctrl-C; each run goes on where the last one stopped."""
    output = tmp_path / "out"
    ended_at(2, signal.SIGKILL, [*words, str(output)], output, environment)
    first = output.with_name("out.unfinished") / "set/shard-00000.tar"
    written = first.stat().st_mtime_ns
    two = [*words, str(output), "--processes", "2"]
    ended_at(6, signal.SIGKILL, two, output, environment)
    ended_at(12, signal.SIGTERM, two, output, environment)
    told = ended_at(18, signal.SIGINT, two, output, environment)
    assert "Traceback" not in told
    assert told.splitlines()[-1] == "interrupted"
    assert "whole shards are kept" in told
    assert first.stat().st_mtime_ns == written
    run_command([*words, str(output), "--verify"])
    assert (output / "shard-00000.tar").stat().st_mtime_ns == written
    run_command([*words, str(tmp_path / "undisturbed")])
    assert content_of(output) == content_of(tmp_path / "undisturbed")
    assert len(content_of(output)) == 2 * SHARDS + 1
    assert not output.with_name("out.unfinished").exists()


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_other_inputs_or_options_begin_anew(
    words: list[str], environment: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that changed, or another type of features, has nothing to do with the shards that are there."""
    unfinished = tmp_path / "out.unfinished"
    questions = Path(words[words.index("--source.lxmert_json") + 1])
    images = [f"i{number}" for number in range(4)]
    ask(questions, [*images, "absent"])
    with pytest.raises(UserError, match="1 images without regions"):
        run_command([*words, str(tmp_path / "out")])
    assert "2 whole shards are kept" in caplog.text
    assert len(list((unfinished / "set").glob("*.tar"))) == 2
    for change in (["--feature_dtype", "float32"], ["--images_per_shard", "3"], []):
        caplog.clear()
        with pytest.raises(UserError, match="1 images without regions"):
            run_command([*words, str(tmp_path / "out"), *change])
        assert "it begins anew" in caplog.text
    os.utime(questions, ns=(0, 0))
    caplog.clear()
    with pytest.raises(UserError, match="1 images without regions"):
        run_command([*words, str(tmp_path / "out")])
    assert "it begins anew" in caplog.text
    caplog.clear()
    run_command([*words, str(tmp_path / "out"), "--allow_missing_features"])  # changes no shard
    assert "it begins anew" not in caplog.text
    assert ShardSet.open(tmp_path / "out").num_images == 4


def refuse(words: list[str | Path], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run_command(list(map(str, words)))


def test_a_corrected_label_is_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pictures and classes stay the same; what is told of a picture does not."""
    for name in ("a", "b", "c"):
        write_picture(tmp_path / f"pictures/{name}.png")
    (tmp_path / "pictures/c.png").write_bytes(b"\x89PNG, cut off")
    words: list[str | Path] = ["shards", "--output", tmp_path / "out", "--pictures", tmp_path / "pictures"]
    words += ["--labels", tmp_path / "labels.csv", "--images_per_shard", "1"]
    for labels in (("cat", "dog", "dog"), ("dog", "cat", "dog")):
        rows = [f"{name}.png,{label}\n" for name, label in zip("abc", labels, strict=True)]
        (tmp_path / "labels.csv").write_text("path,label\n" + "".join(rows))
        caplog.clear()
        refuse(words, "no whole picture")
        assert "2 whole shards are kept" in caplog.text
    assert "it begins anew" in caplog.text
    write_picture(tmp_path / "pictures/c.png")
    run_command(list(map(str, words)))
    (batch,) = EvalStream(ShardSet.open(tmp_path / "out").with_blind(), batch_size=3)
    assert [list(question.scores) for question in batch.questions] == [["dog"], ["cat"], ["dog"]]


def test_another_place_in_the_same_zip_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = np.array([[1, 2, 30, 40]], dtype=np.float32)
    names = ["i0", "i1", "i2"]
    with zipfile.ZipFile(tmp_path / "features.zip", "w") as archive:
        for number, place in enumerate(("one", "two")):
            features = np.full((1, 4), number, dtype=np.float32)
            images = [ImageRecord(name, 60, 50, box, features, ()) for name in names[: 2 + number]]
            (tmp_path / place).mkdir()
            for path in sorted(write_npz_folder(tmp_path / place, images).iterdir()):
                archive.write(path, f"{place}/{path.name}")
    words: list[str | Path] = ["shards", "--output", tmp_path / "out", "--min_answer_count", "1"]
    words += ["--source.lxmert_json", ask(tmp_path / "q.json", names), "--images_per_shard", "1", "--features"]
    refuse([*words, tmp_path / "features.zip@/one"], "1 images without regions")
    run_command([*map(str, words), f"{tmp_path / 'features.zip'}@/two"])
    assert "it begins anew" in caplog.text
    (batch,) = EvalStream(ShardSet.open(tmp_path / "out"), batch_size=3)
    assert batch.features_BND.ravel().tolist() == [1.0] * 12


def test_other_image_names_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same files and the same answer table, another --source.coco_split."""
    asked = [{"question_id": number, "image_id": number, "question": "Who?"} for number in (1, 2)]
    words: list[str | Path] = ["shards", "--output", tmp_path / "out", "--source.questions", tmp_path / "q.json"]
    words += ["--images_per_shard", "1", "--source.coco_split"]
    asked.append({"question_id": 3, "image_id": 3, "question": " "})
    (tmp_path / "q.json").write_text(json.dumps({"questions": asked}))
    refuse([*words, "train2014"], "question 3 has no text")
    caplog.clear()
    refuse([*words, "val2014"], "question 3 has no text")
    assert "it begins anew" in caplog.text
