"""What a kill leaves of a set that grows: the next run knows all of it as its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_ft.data.reading.shard_set import verify

WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from adaptive_ft.data import ImageRecord, Question, ShardInfo, write_shards
from adaptive_ft.data.writing.shards import Writing

folder, doomed = Path(sys.argv[1]), sys.argv[2]
replace = os.replace

def replace_or_die(source, target):
    if Path(target).name == doomed:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

def records():
    for number in range(3):
        question = Question(number, "what?", "what", "other", ("red",) * 10, {})
        boxes = np.array([[0, 0, 5, 5]], dtype=np.float32)
        yield ImageRecord(f"i{number}", 9, 9, boxes, np.ones((1, 4), dtype=np.float32), (question,))

os.replace = replace_or_die
info = ShardInfo("train", "x", "ones", ["red"])
write_shards(records(), folder, info, images_per_shard=2, how=Writing(plan={"of": "it"}))
"""


def write(folder: Path, doomed: str) -> int:
    """Write a set with a plan in a process of its own, killed before `doomed` gets its name; its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", WRITER, str(folder), doomed], env=environment, check=False).returncode


@pytest.mark.parametrize("doomed", ["plan.json", "shard-00001.json", "manifest.json"])
def test_a_file_half_written_stops_no_later_run(doomed: str, tmp_path: Path) -> None:
    """Killed before the file got its name; what has the temporary name then was once taken for somebody else's."""
    assert write(tmp_path / "set", doomed) == -signal.SIGKILL
    assert len(list((tmp_path / "set.unfinished").rglob(f".{doomed}.*.tmp"))) == 1
    assert write(tmp_path / "set", "none") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert not list((tmp_path / "set").glob(".*"))
    verify(tmp_path / "set")
