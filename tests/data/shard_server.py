"""A real HTTP server of a shard folder on this machine, and what tests of shards from elsewhere compare."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.reading.stream import TrainStream

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
