"""The stream of batches beside plain reading, tarfile and webdataset: 36 regions of 2048 float16 an image, cache warm.

    pytest kernels/benchmarks/bench_stream.py

Every way reads the same shards once, into batches of 32 tensors of the stored type unless its name says otherwise. The
first column is what the disk cache gives to read() in blocks of 1 MiB.
"""

import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from adaptive_ft.data.format.manifest import ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.writing.shards import write_shards
from measuring import Cell, measure

IMAGES, SHARD, REGIONS, FEATURES, BATCH = 2000, 250, 36, 2048, 32
TITLE = f"Reading {IMAGES} images of {REGIONS} x {FEATURES} float16 once ({{:.0f}} MB)"


def image(number: int) -> ImageRecord:
    random = np.random.default_rng(number)
    corners = random.uniform(0, 100, (REGIONS, 2))
    answers = {"red": 1.0}
    return ImageRecord(
        image_id=f"image{number:06d}",
        width=640,
        height=480,
        boxes=np.hstack([corners, corners + 50]).astype(np.float32),
        features=random.standard_normal((REGIONS, FEATURES), dtype=np.float32),
        questions=(Question(number, "What colour is it?", "what colour", "other", (), answers),),
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards, in the disk cache because they have just been written."""
    place = tmp_path_factory.mktemp("stream") / "set"
    info = ShardInfo(split="train", domain="bench", feature_extractor="random", answer_table=["red"])
    write_shards(map(image, range(IMAGES)), place, info, images_per_shard=SHARD)
    return place


def urls(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def read(folder: Path) -> None:
    block = bytearray(1 << 20)
    for url in urls(folder):
        with open(url, "rb", buffering=0) as file:
            while file.readinto(block):
                pass


def tar_members(folder: Path) -> None:
    for url in urls(folder):
        with tarfile.open(url, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                file.read()


def webdataset_members(folder: Path) -> None:
    assert sum(1 for _ in webdataset.WebDataset(urls(folder), shardshuffle=False)) == IMAGES


def tensors(sample: dict[str, bytes]) -> tuple[Tensor, Tensor]:
    features = np.frombuffer(sample["features.f16"], np.float16).reshape(REGIONS, FEATURES)
    boxes = np.frombuffer(sample["boxes.f32"], np.float32).reshape(REGIONS, 4)
    return torch.from_numpy(features.copy()), torch.from_numpy(boxes.copy())


def webdataset_batches(folder: Path, workers: int) -> None:
    samples = webdataset.WebDataset(urls(folder), shardshuffle=False).map(tensors).batched(BATCH)
    loader = webdataset.WebLoader(samples, batch_size=None, num_workers=workers)
    assert sum(len(features_BND) for features_BND, _ in loader) == IMAGES


def stream_batches(shards: ShardSet, readers: int) -> None:
    stream = TrainStream(shards, batch_size=BATCH, readers=readers)
    batches: Iterator[object] = islice(stream, -(-IMAGES // BATCH))
    for _ in batches:
        pass
    stream.close()


WAYS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "read()": lambda folder: lambda: read(folder),
    "tarfile, members": lambda folder: lambda: tar_members(folder),
    "webdataset, members": lambda folder: lambda: webdataset_members(folder),
    "webdataset, 0 workers": lambda folder: lambda: webdataset_batches(folder, 0),
    "webdataset, 1 worker": lambda folder: lambda: webdataset_batches(folder, 1),
    "webdataset, 2 workers": lambda folder: lambda: webdataset_batches(folder, 2),
    "ours, 0 readers": lambda folder: lambda: stream_batches(ShardSet.open(folder), 0),
    "ours, 1 reader": lambda folder: lambda: stream_batches(ShardSet.open(folder), 1),
    "ours, 2 readers": lambda folder: lambda: stream_batches(ShardSet.open(folder), 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_local(benchmark: BenchmarkFixture, folder: Path, way: str) -> None:
    megabytes = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e6
    measure(benchmark, Cell(TITLE.format(megabytes), "the whole set", way), WAYS[way](folder), rounds=5)


REMOTE = "The same shards through a pipe (cat), nothing copied before"


@pytest.mark.parametrize("way", ["webdataset, members", "webdataset, 0 workers", "ours, 1 reader"])
def test_remote(benchmark: BenchmarkFixture, folder: Path, tmp_path: Path, way: str) -> None:
    """Ours copies whole shards to a disk, ahead of the reading, and checks size and SHA-256 of each."""
    places = (tmp_path / f"cache{number}" for number in range(99))

    def work() -> None:
        if way == "ours, 1 reader":
            stream_batches(ShardSet.open_remote(f"pipe:cat {folder}/{{}}", next(places), 10**12), 1)
            return
        piped = [f"pipe:cat {url}" for url in urls(folder)]
        samples = webdataset.WebDataset(piped, shardshuffle=False)
        if way == "webdataset, 0 workers":
            samples = samples.map(tensors).batched(BATCH)
        for _ in samples:
            pass

    measure(benchmark, Cell(REMOTE, "the whole set", way), work, rounds=3)
