"""Shards from elsewhere as one stream reads them: its threads see one copy, its end is its own, and nothing hangs."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest

from adaptive_ft.data.reading.shard_bytes import ShardBytes
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream
from tests.data.shard_server import ROOMY, trained

pytestmark = pytest.mark.usefixtures("impatient")


def test_readers_that_see_one_damaged_copy_all_get_the_new_one(shard_folder: Path, tmp_path: Path) -> None:
    """Both have read the damaged copy before either asks for another; only one of them throws it away."""
    address = f"pipe:cat {shard_folder}/{{}}"
    trained(ShardSet.open_remote(address, tmp_path / "cache", ROOMY))
    (copy,) = tmp_path.glob("cache/*/shard-00001.tar")
    shards = ShardSet.open_remote(address, tmp_path / "cache", ROOMY)
    places = [shards.locate(example) for example in (4, 6)]
    assert {place.shard for place in places} == {1}
    content = bytearray(copy.read_bytes())
    for place in places:
        content[place.row.json_offset] ^= 1
    copy.write_bytes(content)
    both, renew = threading.Barrier(2, timeout=60), shards.files.renew

    def renew_together(shard: int, generation: int) -> bool:
        both.wait()
        return renew(shard, generation)

    with patch.object(shards.files, "renew", renew_together), ThreadPoolExecutor(2) as threads:
        described = threads.map(ShardBytes(shards).describe, places)
        assert [image.image_id for image in described] == ["img002", "img003"]
    shards.files.close()


def test_what_another_stream_has_copied_anew_is_not_thrown_away(shard_folder: Path, tmp_path: Path) -> None:
    shards = ShardSet.open_remote(f"pipe:cat {shard_folder}/{{}}", tmp_path / "cache", ROOMY)
    one, other = shards.files.opened(), shards.files.opened()
    content = bytearray(4)
    for files in (one, other):
        files.read_into([memoryview(content)], 1, 0)
    assert one.renew(1, one.generation(1))
    one.read_into([memoryview(content)], 1, 0)
    (copy,) = tmp_path.glob("cache/*/shard-00001.tar")
    made = copy.stat().st_ino
    assert other.renew(1, other.generation(1))
    other.read_into([memoryview(content)], 1, 0)
    assert copy.stat().st_ino == made
    one.close()
    other.close()


def test_a_stream_that_ends_stops_no_other(shard_folder: Path, tmp_path: Path) -> None:
    """One waits for its shards, another that plans the same ones is closed."""
    waiting = f"echo {{}} >> {tmp_path}/asked; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    command = f"pipe:case {{}} in *.tar) {waiting};; esac; cat {shard_folder}/{{}}"
    shards = ShardSet.open_remote(command, tmp_path / "cache", ROOMY)
    with TrainStream(shards, batch_size=13) as train, ThreadPoolExecutor(1) as consumer:
        batch = consumer.submit(next, train)
        while not (tmp_path / "asked").exists():
            time.sleep(0.02)
        other = shards.for_stream().files
        other.ahead(range(4))
        other.close()
        (tmp_path / "go").touch()
        assert batch.result().valid_B.all()


INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream, TrainStream

shards = ShardSet.open_remote(sys.argv[1], Path(sys.argv[2]), 10**9)
for stream in (TrainStream(shards, batch_size=4, readers=2), iter(EvalStream(shards, batch_size=4))):
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        next(stream)
    except KeyboardInterrupt:
        print("interrupted", threading.active_count())
"""


def test_an_interrupt_ends_transfers_that_hang(shard_folder: Path, tmp_path: Path) -> None:
    """The reader waits for one, others run in the background: all are given up, and no thread is left."""
    command = f"pipe:case {{}} in *.tar) sleep 600;; *) cat {shard_folder}/{{}};; esac"
    words = [sys.executable, "-c", INTERRUPTED, command, str(tmp_path / "cache")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split("\n")[:2] == ["interrupted 1"] * 2, done.stderr
    assert not list(tmp_path.glob("cache/*/*.tar"))


FAILING = """
import sys, threading, time
from pathlib import Path
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream

stream = TrainStream(ShardSet.open_remote(sys.argv[1], Path(sys.argv[2]), 10**9), batch_size=1, readers=2)
threading.Thread(target=next, args=(stream,), daemon=True).start()
while not Path(sys.argv[3]).exists():
    time.sleep(0.02)
raise RuntimeError("the model failed")
"""


def test_a_program_that_fails_without_closing_its_stream_ends(shard_folder: Path, tmp_path: Path) -> None:
    """Neither the copies that are queued nor the batches that wait for them keep it alive."""
    command = f"pipe:case {{}} in *.tar) touch {tmp_path}/asked; sleep 600;; *) cat {shard_folder}/{{}};; esac"
    words = [sys.executable, "-c", FAILING, command, str(tmp_path / "cache"), str(tmp_path / "asked")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "RuntimeError: the model failed" in done.stderr
