"""Shards from elsewhere, over a real HTTP server on this machine and through pipes: the same batches as from a folder,
whole copies only, each made once, and never more of them than there is room for.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptive_ft.data import remote
from adaptive_ft.data.batch import RawBatch
from adaptive_ft.data.choice import DataConfig, open_shards
from adaptive_ft.data.manifest import ShardInfo
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.remote import RemoteFolder, is_remote
from adaptive_ft.data.shard_set import ShardSet
from adaptive_ft.data.shards import write_shards
from adaptive_ft.data.stream import EvalStream, TrainStream
from adaptive_ft.errors import UserError

ROOMY = 10**9


class Server(ThreadingHTTPServer):
    """Serves a folder; remembers what was asked for, and sends files that `cut` names only in part, so many times."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Answer, directory=str(folder)))
        self.asked: list[str] = []
        self.cut: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if self.server.cut.get(name, 0) == 0:
            return super().do_GET()
        self.server.cut[name] -= 1
        content = (Path(self.directory) / name).read_bytes()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        return None


@pytest.fixture
def server(shard_folder: Path) -> Iterator[Server]:
    with Server(shard_folder) as server:
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)


def assert_same(ours: list[RawBatch], theirs: list[RawBatch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.features_BND, other.features_BND)
        assert torch.equal(one.boxes_BN4, other.boxes_BN4)
        assert torch.equal(one.valid_B, other.valid_B)
        assert (one.questions, one.image_ids) == (other.questions, other.image_ids)


def trained(shards: ShardSet, **options: int) -> list[RawBatch]:
    """Two epochs and a bit."""
    stream = TrainStream(shards, batch_size=4, seed=3, **options)
    batches = list(islice(stream, 7))
    stream.close()
    return batches


@pytest.mark.parametrize("way", ["http", "pipe"])
@pytest.mark.parametrize("options", [{}, {"rank": 1, "world_size": 2, "readers": 2}], ids=["alone", "one of two"])
def test_the_batches_are_those_of_the_folder(
    way: str, options: dict[str, int], server: Server, shard_folder: Path, tmp_path: Path
) -> None:
    address = server.address if way == "http" else f"pipe:cat {shard_folder}/{{}}"
    shards = open_shards(address, DataConfig(cache=str(tmp_path / "cache")))
    local = ShardSet.open(shard_folder)
    assert shards.fingerprint == local.fingerprint
    assert_same(trained(shards, **options), trained(local, **options))
    both = (list(EvalStream(opened, batch_size=3, **options)) for opened in (shards, local))
    assert_same(*both)
    assert shards.address == address


def test_a_shard_is_copied_once_for_all_ranks_and_runs(server: Server, tmp_path: Path) -> None:
    ranks = [ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY) for _ in range(3)]
    threads = [threading.Thread(target=trained, args=(shards,)) for shards in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trained(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY))
    files = [name for name in server.asked if name != "manifest.json"]
    assert sorted(files) == sorted(
        [f"shard-{number:05d}.{ending}" for number in range(4) for ending in ("tar", "index.npy")]
    )


def test_there_are_no_more_copies_than_there_is_room_for(
    tmp_path: Path, make_image: Callable[..., ImageRecord], info: ShardInfo
) -> None:
    """Twelve shards, room for five, and one more that is being copied; an evaluation plans four at a time."""
    origin = tmp_path / "origin"
    manifest = write_shards([make_image(number) for number in range(12)], origin, info, images_per_shard=1)
    room = 5 * max(entry.bytes for entry in manifest.shards)
    shards = ShardSet.open_remote(f"pipe:cat {origin}/{{}}", tmp_path / "cache", room)
    found = []
    for batch in EvalStream(shards, batch_size=2):
        found.append(batch)
        assert len(list((tmp_path / "cache").glob("*/*.tar"))) <= 5 + 1
    assert_same(found, list(EvalStream(ShardSet.open(origin), batch_size=2)))


def test_a_copy_removed_by_another_process_is_made_again(server: Server, shard_folder: Path, tmp_path: Path) -> None:
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    first = trained(shards)
    for copy in tmp_path.glob("cache/*/*.tar"):
        copy.unlink()
    assert_same(trained(shards), first)


def test_a_broken_transfer_is_tried_again_and_nothing_half_is_kept(
    server: Server, shard_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.cut = {"shard-00002.tar": 1}
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    assert_same(trained(shards), trained(ShardSet.open(shard_folder)))
    assert server.asked.count("shard-00002.tar") == 2
    assert "shard-00002.tar' failed: 5120 of 10240 bytes came" in caplog.text
    assert not list(tmp_path.glob("cache/*/*.tmp"))


def test_a_transfer_that_stays_broken_is_named(server: Server, tmp_path: Path) -> None:
    server.cut = {"shard-00002.tar": 99}
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    with pytest.raises(UserError, match=r"/shard-00002\.tar' cannot be copied, in 3 attempts: 5120 of 10240 bytes"):
        list(EvalStream(shards, batch_size=4))
    assert not (next(tmp_path.glob("cache/*/")) / "shard-00002.tar").exists()


def test_changed_bytes_are_never_taken(server: Server, shard_folder: Path, tmp_path: Path) -> None:
    path = shard_folder / "shard-00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"/shard-00001\.tar' cannot be copied, .* expected sha256 \w{12}, found"):
        list(EvalStream(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY), batch_size=4))


def test_a_set_written_anew_is_not_mixed_with_old_copies(
    server: Server, shard_folder: Path, tmp_path: Path, make_image: Callable[..., ImageRecord], info: ShardInfo
) -> None:
    trained(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY))
    for file in shard_folder.iterdir():
        file.unlink()
    write_shards([make_image(number) for number in (8, 9)], shard_folder, info)
    (batch,) = EvalStream(ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY), batch_size=4)
    assert batch.image_ids == ["img008"] * 2 + ["img009"] * 2


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("pipe:cat {folder}", r"has no .* where the name of a shard goes"),
        (
            "pipe:cat {folder}/missing/{{}}",
            r"missing/manifest\.json' cannot be read: its transfer ended with exit code 1",
        ),
        (
            "http://127.0.0.1:1/set",
            r"'http://127\.0\.0\.1:1/set/manifest\.json' cannot be read: .* exit code 7 of curl",
        ),
    ],
)
def test_an_address_that_leads_nowhere(address: str, message: str, shard_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ShardSet.open_remote(address.format(folder=shard_folder), tmp_path, ROOMY)


def test_what_is_an_address() -> None:
    assert is_remote("http://host/set")
    assert is_remote("pipe:cat {}")
    assert not is_remote("data/http/set")
    assert not is_remote("/data/set")
    assert RemoteFolder("https://host/set/").url("a.tar") == "https://host/set/a.tar"
    assert RemoteFolder("pipe:ssh host cat {}.gz | gunzip").url("a.tar") == "pipe:ssh host cat a.tar.gz | gunzip"
