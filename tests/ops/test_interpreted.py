"""Runs the kernels themselves on a CPU: Triton's interpreter must be chosen before they are imported.

So `interpreted/` has a pytest process of its own, started here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
def test_kernels_in_the_interpreter() -> None:
    # With two threads torch's small products are ten times slower than with one on a shared machine.
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "tests/ops/interpreted"]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) > 0
