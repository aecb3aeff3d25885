"""Waiting for data and leaving out damaged samples, measured on a real stream and in a run."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.supply import SupplyMeter
from adaptive_ft.trainer import Trainer


def test_the_share_is_of_the_steps_since_the_last_window(workplace: Path, ranks: Ranks) -> None:
    stream = TrainStream(ShardSet.open(workplace / "world/target/train"), batch_size=4, readers=0)
    supply = SupplyMeter(stream)
    assert supply.window(ranks, 0.0) == {"data_stall_share": 0.0, "data_skipped": 0.0}
    began = time.perf_counter()
    next(stream)  # read in this thread: nothing but waiting
    assert 0.5 < supply.window(ranks, time.perf_counter() - began)["data_stall_share"] <= 1
    assert supply.window(ranks, 0.01)["data_stall_share"] == 0


TWO_RANKS = """
import sys, time
from pathlib import Path
from adaptive_ft.data.reading.bad_samples import DamagedSample, SkipBad
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.engine.ranks import run_ranks
from adaptive_ft.supply import SupplyMeter

def main(ranks):
    bad = SkipBad(0.041, 122)  # 5 examples
    supply = SupplyMeter(TrainStream(ShardSet.open(Path(sys.argv[1])), batch_size=4, readers=0, bad=bad))
    for example in (1, 2, 3 + ranks.rank):  # three on each rank, two of them the same
        bad.met(example, DamagedSample("damaged"))
    began = time.perf_counter()
    if ranks.rank == 1:
        next(supply._stream)  # read in this thread: rank 1 does nothing but wait, rank 0 hardly takes any time
    else:
        time.sleep(0.05)
    window = supply.window(ranks, time.perf_counter() - began)
    print("skipped", window["data_skipped"], "late" if window["data_stall_share"] > 0.5 else "in time")
    for example in (5, 6):
        if ranks.rank == example % 2:
            bad.met(example, DamagedSample("damaged"))
    supply.window(ranks, 1.0)

run_ranks(main)
"""


@pytest.mark.launch
def test_what_one_rank_meets_or_waits_for_counts_for_all(
    launch: Callable[..., "subprocess.CompletedProcess[str]"], workplace: Path, tmp_path: Path
) -> None:
    """Six examples of which no rank has met more than five: both stop, and it is told once."""
    (tmp_path / "ranks.py").write_text(TWO_RANKS)
    done = launch(
        *("torchrun", "--standalone", "--nproc-per-node", "2", tmp_path / "ranks.py"),
        workplace / "world/target/train",
    )
    assert done.returncode != 0
    assert done.stdout.split().count("4.0") == 2, done.stdout
    assert done.stdout.split().count("late") == 2, "the share of the rank that waited most"
    told = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert told
    sentence = "6 of 122 examples are damaged, and --data.max_bad_share 0.041 allows no more than 5 to be left out."
    assert all(line.endswith(sentence) for line in told)


@pytest.mark.parametrize("strategy", ["spottune", "standard"])
def test_a_run_goes_on_without_a_damaged_sample(
    strategy: str, workplace: Path, tmp_path: Path, ranks: Ranks, tiny: Callable[..., list[str]]
) -> None:
    """Two epochs of two updates meet its questions; the summary of the run and every update say how many."""
    folder = tmp_path / "shards"
    shutil.copytree(workplace / "world/target/train", folder)
    shards = ShardSet.open(folder)
    place = shards.locate(7)
    with Path(shards.files.name(place.shard)).open("r+b") as file:
        file.seek(place.row.features_offset)
        file.write(b"\xff" * 4)
    words = ("--data.train", str(folder), "--data.max_bad_share", "0.1", "--output_dir", str(tmp_path / "runs"))
    words += ("--per_device_train_batch_size", "61", "--max_steps", "4", "--adapt.strategy", strategy)
    run = build(load_run_config(tiny("skipping", *words)), ranks)
    summary = Trainer(run).fit()
    assert summary["epochs"] == 2
    lines = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    skipped = {line["step"]: line["train/data_skipped"] for line in lines if "train/data_skipped" in line}
    asked = place.row.num_questions
    assert asked > 0
    assert skipped[2] == skipped[4] == asked
    assert all(0 <= line["train/data_stall_share"] <= 1 for line in lines if "train/data_stall_share" in line)
