"""Converting a checkpoint for other ranks; what comes out is tested on ranks in tests/cluster/test_other_ranks.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.living import process_began
from adaptive_ft.engine.universal import BOUND, convert
from adaptive_ft.errors import UserError

# Stands where the converter does: it works in processes of its own, which write on and on.
CONVERTS = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor

def write(folder):
    while True:
        open(f"{folder}/{os.getpid()}", "w").close()
        time.sleep(0.01)

if __name__ == "__main__":
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write, [sys.argv[1]] * 2))
"""
RANK = (
    "import os, subprocess, sys; subprocess.run([sys.executable, '-P', sys.argv[1], str(os.getpid()), *sys.argv[2:]])"
)


def test_a_rank_that_is_killed_takes_its_converter_along(tmp_path: Path) -> None:
    """The converter and each of its processes: nobody writes when the next start comes."""
    (tmp_path / "converts.py").write_text(CONVERTS)
    place = tmp_path / "place"
    place.mkdir()
    words = [sys.executable, "-c", RANK, BOUND, "converts", place]
    rank = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    while len(list(place.iterdir())) < 3:
        assert rank.poll() is None
        time.sleep(0.01)
    writers = [int(path.name) for path in place.iterdir()]
    os.kill(rank.pid, signal.SIGKILL)
    rank.wait()
    deadline = time.monotonic() + 60
    while any(process_began(writer) for writer in writers):
        assert time.monotonic() < deadline, "somebody writes on"
        time.sleep(0.01)


def test_a_damaged_checkpoint_is_not_converted(tmp_path: Path) -> None:
    """What would come out would be whole by its own manifest."""
    checkpoints = CheckpointFolder(tmp_path)
    place = checkpoints.begin("step_000001")
    (place / "weights.pt").write_bytes(b"weights")
    checkpoints.finish("step_000001", {})
    (tmp_path / "step_000001/weights.pt").write_bytes(b"wreight")
    with pytest.raises(UserError, match=r"step_000001' cannot be converted .*: weights.pt has another SHA-256"):
        convert(checkpoints, "step_000001")
    assert [path.name for path in (tmp_path / "step_000001").iterdir() if path.is_dir()] == []
