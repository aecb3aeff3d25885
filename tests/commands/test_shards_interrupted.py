"""adaptive-ft shards, killed and interrupted: nothing looks whole too early, whole shards are kept, nobody stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adaptive_ft.cli import run_command
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.errors import UserError
from tests.commands.test_shards import ask
from tests.data.sources.feature_files import write_tsv

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
