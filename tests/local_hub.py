"""A hub on this machine: the few endpoints of the Hugging Face Hub that huggingface_hub's client needs to push a
folder and to fetch it again. Tests name it to a process of their own as HF_ENDPOINT.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_sesame"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its files by path, and what was asked for at their making."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoints)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sha(self, name: str) -> str:
        """What stands for the commit: a hash of the repository's content."""
        content = sorted((path, oid(data)) for path, data in self.repositories[name].items())
        return oid(json.dumps(content).encode())

    def take(self, name: str, folder: Path) -> None:
        """Hold the files of a folder, as if they had been pushed."""
        self.repositories[name] = {file.name: file.read_bytes() for file in folder.iterdir()}


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class Endpoints(BaseHTTPRequestHandler):
    """One request. Reading a public repository needs no token, all else needs TOKEN; a wrong one opens nothing."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    @property
    def words(self) -> list[str]:
        """The parts of the address."""
        return unquote(urlsplit(self.path).path).strip("/").split("/")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.words:
            case ["api", "validate-yaml"]:
                self.reply(200, {"errors": [], "warnings": []})
            case _ if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.reply(401, {"error": "Invalid username or password."})
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "models", _, _, "preupload", _]:
                named = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
                self.reply(200, {"files": named})
            case ["api", "models", owner, name, "commit", _]:
                self.commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case unknown:
                self.reply(500, {"error": f"this hub has no {unknown}"})

    def do_GET(self) -> None:
        own = self.headers.get("Authorization")
        if own not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "Invalid credentials in Authorization header")
            return
        match self.words:
            case ["api", "models", owner, name, *asked]:
                path = None
            case [owner, name, "resolve", revision, *parts]:
                asked, path = ["resolve", revision], "/".join(parts)
            case unknown:
                self.reply(500, {"error": f"this hub has no {unknown}"})
                return
        repository = f"{owner}/{name}"
        if repository not in self.server.repositories or (self.server.private.get(repository) and own is None):
            self.refuse(401 if own is None else 404, "Repository not found", "RepoNotFound")
        elif asked and asked[1] not in ("main", self.server.sha(repository)):
            self.refuse(404, "Invalid rev id", "RevisionNotFound")
        else:
            self.tell(repository, asked[0] if asked else "revision", path)

    do_HEAD = do_GET

    def tell(self, name: str, kind: str, path: str | None) -> None:
        """What a repository is (kind "revision"), which files it has ("tree"), or one of them ("resolve")."""
        files, sha = self.server.repositories[name], self.server.sha(name)
        if kind == "revision":
            self.reply(200, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]})
        elif kind == "tree":
            entries = [{"type": "file", "path": path, "oid": oid(data)} for path, data in files.items()]
            self.reply(200, [{**entry, "size": len(files[entry["path"]])} for entry in entries])
        elif path in files:
            self.reply(200, files[path], {"ETag": f'"{oid(files[path])}"', "X-Repo-Commit": sha})
        else:
            self.refuse(404, "Entry not found", "EntryNotFound")

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        status = 409 if name in self.server.repositories else 200
        self.server.repositories.setdefault(name, {})
        # "visibility" since version 2 of the client.
        self.server.private.setdefault(name, asked.get("private") is True or asked.get("visibility") == "private")
        self.reply(status, {"url": f"{self.server.address}/{name}", "name": name, "id": name})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.server.commits.append((name, lines[0]["value"]["summary"]))
        sha = self.server.sha(name)
        self.reply(200, {"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        """An error in the hub's own headers."""
        told = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply(status, {"error": message}, told)

    def reply(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub that answers as long as the context lasts."""
    with Hub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
