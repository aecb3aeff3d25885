"""Shards from elsewhere, over HTTP and through pipes: the same batches as from a folder, and whole copies only."""

import hashlib
import json
import os
import resource
import threading
import time
from pathlib import Path

import pytest

from adaptive_ft.data.places import remote
from adaptive_ft.data.places.remote import RemoteFolder, is_remote
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.errors import UserError
from tests.data.shard_server import ROOMY, Server, assert_same, trained

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("way", ["http", "pipe"])
@pytest.mark.parametrize("options", [{}, {"rank": 1, "world_size": 2, "readers": 2}], ids=["alone", "one of two"])
def test_the_batches_are_those_of_the_folder(
    way: str, options: dict[str, int], server: Server, shard_folder: Path, tmp_path: Path
) -> None:
    address = server.address if way == "http" else f"pipe:cat {shard_folder}/{{}}"
    shards = open_set(address, DataConfig(cache=str(tmp_path / "cache")))
    local = ShardSet.open(shard_folder)
    assert shards.fingerprint == local.fingerprint
    assert_same(trained(shards, **options), trained(local, **options))
    both = (list(EvalStream(opened, batch_size=3, **options)) for opened in (shards, local))
    assert_same(*both)
    assert shards.address == address


def test_a_transfer_that_stalls_is_given_up(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every program of the command has ended then, the shell as those it has started."""
    monkeypatch.setattr(remote, "STALL_SECONDS", 1)
    sleeping = f"sh -c 'echo $$ >> {tmp_path}/pids; exec sleep 600' | cat"
    command = f"pipe:case {{}} in *.tar) {sleeping};; *) cat {shard_folder}/{{}};; esac"
    with pytest.raises(UserError, match=r"cannot be copied, in 3 attempts: nothing came for 1 seconds"):
        RemoteFolder(command).copy("a.tar", tmp_path / "a.tar", None, "", threading.Event())
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 3
    patience = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < patience:
        time.sleep(0.02)
    assert not any(map(is_running, pids))


def is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked how


def test_many_open_files_do_not_matter(tmp_path: Path) -> None:
    """select() takes no descriptor from 1024 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        pytest.skip("this machine allows no 1100 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        digest = hashlib.sha256(b"whole").hexdigest()
        RemoteFolder("pipe:printf whole # {}").copy("a", tmp_path / "a", 5, digest, threading.Event())
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.parametrize("name", ["../../pwned.npy", "x; touch pwned", "/pwned", ".hidden", "a/b"])
def test_a_manifest_names_files_of_its_own_folder_only(name: str, shard_folder: Path, tmp_path: Path) -> None:
    path = shard_folder / "manifest.json"
    path.write_text(path.read_text().replace('"shard-00001.index.npy"', json.dumps(name)))
    with pytest.raises(UserError, match="is no name of a file"):
        ShardSet.open_remote(f"pipe:cat {shard_folder}/{{}}", tmp_path / "cache", ROOMY)
    assert not list(tmp_path.rglob("*pwned*"))


def test_a_broken_transfer_is_tried_again_and_nothing_half_is_kept(
    server: Server, shard_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.cut = {"shard-00002.tar": 1}
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    assert_same(trained(shards), trained(ShardSet.open(shard_folder)))
    assert server.asked.count("shard-00002.tar") == 2
    assert "shard-00002.tar' failed: 5120 of 10240 bytes came" in caplog.text
    assert not list(tmp_path.glob("cache/*/*.tmp"))


def test_a_manifest_that_was_cut_is_fetched_again(server: Server, shard_folder: Path, tmp_path: Path) -> None:
    server.cut = {"manifest.json": 2}
    shards = ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    assert shards.fingerprint == ShardSet.open(shard_folder).fingerprint
    assert server.asked.count("manifest.json") == 3


def test_a_manifest_that_stays_cut_is_told(server: Server, tmp_path: Path) -> None:
    server.cut = {"manifest.json": 99}
    with pytest.raises(
        UserError, match=r"manifest\.json' cannot be copied, in 3 attempts: \d+ bytes came, .* no valid"
    ):
        ShardSet.open_remote(server.address, tmp_path / "cache", ROOMY)
    assert not (tmp_path / "cache").exists()


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


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("pipe:cat {folder}", r"has no .* where the name of a shard goes"),
        (
            "pipe:cat {folder}/missing/{{}}",
            r"missing/manifest\.json' cannot be copied, in 3 attempts: its transfer ended with exit code 1",
        ),
        (
            "http://127.0.0.1:1/set",
            r"'http://127\.0\.0\.1:1/set/manifest\.json' cannot be copied, .* exit code 7 of curl",
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
