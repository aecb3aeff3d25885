"""Ranks started by hand: one Python program on several of them, with generous time, and what each of them found."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from adaptive_ft.engine.ranks import free_port

SECONDS = 900  # machines that do other things besides


def on_ranks(program: str, world_size: int, place: Path, repository: Path, environment: dict[str, str]) -> list[Any]:
    """Run `program`, which writes RANK.json into the folder sys.argv[1], on `world_size` ranks in the checkout; what
    each rank wrote.
    """
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    path = f"{repository}:{repository / 'kernels'}:{environment.get('PYTHONPATH', '')}"
    logs = [place / f"{rank}.log" for rank in range(world_size)]
    ranks = []
    for rank, log in enumerate(logs):
        own = {**environment, **shared, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("w") as out:
            command = [sys.executable, "-c", program, str(place)]
            ranks.append(subprocess.Popen(command, cwd=repository, env=own, stdout=out, stderr=subprocess.STDOUT))
    try:
        codes = [rank.wait(timeout=SECONDS) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert codes == [0] * world_size, [log.read_text()[-3000:] for log in logs]
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(world_size)]
