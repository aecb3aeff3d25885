"""The manifest: reproducible, complete, and strict when it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.data.format.manifest import MANIFEST_NAME, QUESTIONS, Manifest, ShardInfo
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError

EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda m: m.update(format_version=99), "format version 99, this program reads 2; write"),
    "missing key": (lambda m: m.pop("split"), r"missing keys \['split'\]"),
    "unknown key": (lambda m: m.update(spilt="train"), r"unknown keys \['spilt'\]"),
    "shard key": (lambda m: m["shards"][1].pop("sha256"), r"shard entry .* missing keys \['sha256'\]"),
    "kind": (lambda m: m.update(shards=[5]), "value of the wrong kind"),
    "no name": (lambda m: m["shards"][0].update(file=None), r"shard entry of .*: 'file' is None; it was edited"),
    "no hash": (lambda m: m["shards"][0].update(sha256=5), r"shard entry of .*: 'sha256' is 5; it was edited"),
    "no index": (lambda m: m["shards"][0].update(index_file=["a"]), r"'index_file' is \['a'\]; it was edited"),
    "no number": (lambda m: m.update(max_boxes="9"), "'max_boxes' is '9'; it was edited"),
    "half a character": (lambda m: m["answer_table"].append("\ud800"), "value of the wrong kind .*surrogates"),
    "no shards": (lambda m: m.update(shards=[], images=0, questions=0), "lists no shards"),
    "total": (lambda m: m.update(questions=99), "says 99 questions, its shards sum up to 13"),
    "answer table": (lambda m: m["answer_table"].reverse(), "answer table does not match its hash"),
    "feature type": (lambda m: m.update(feature_dtype="int8"), "feature type 'int8'"),
    "content": (lambda m: m.update(content="films"), "content 'films' is unknown"),
    "shard bytes": (lambda m: m["shards"][0].update(bytes=5), "shard-00000.tar has 10240 bytes, .* says 5"),
    "index hash": (lambda m: m["shards"][2].update(index_sha256="0" * 64), "shard-00002.index.npy does not match"),
    "moved count": (
        lambda m: (m["shards"][0].update(images=1), m["shards"][1].update(images=3)),
        "1 images in shard-00000.tar, its index has 2",
    ),
    "boxes": (lambda m: m.update(max_boxes=9), "says 2 to 9 boxes per image, the indexes say 2 to 4"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_is_refused(name: str, shard_folder: Path) -> None:
    edit, message = EDITS[name]
    path = shard_folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        ShardSet.open(shard_folder)


def test_a_manifest_that_is_no_json_is_refused(shard_folder: Path) -> None:
    for content in (b"", b"\xff", b"[" * 100_000):
        (shard_folder / MANIFEST_NAME).write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.json is not valid JSON"):
            Manifest.load(shard_folder)


def test_it_tells_what_the_set_holds(shard_folder: Path, info: ShardInfo) -> None:
    manifest = Manifest.load(shard_folder)
    assert (manifest.images, manifest.questions, len(manifest.shards)) == (7, 13, 4)
    assert (manifest.min_boxes, manifest.max_boxes, manifest.feature_dim) == (2, 4, 5)
    assert (manifest.split, manifest.answer_table) == (info.split, ("red", "blue"))


def test_a_manifest_from_before_labelled_pictures_holds_questions(shard_folder: Path) -> None:
    path = shard_folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    del content["content"]
    path.write_text(json.dumps(content))
    assert Manifest.load(shard_folder).content == QUESTIONS


def test_a_folder_without_manifest_is_no_shard_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        Manifest.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        Manifest.load(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("name", ["feature_dim", "min_boxes", "images"])
def test_a_number_below_zero_was_edited(name: str, shard_folder: Path) -> None:
    path = shard_folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), name: -1}))
    with pytest.raises(UserError, match=f"'{name}' is -1; it was edited"):
        Manifest.load(shard_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_dtype": "float64"}, "feature_dtype 'float64' is unknown"),
        ({"box_convention": "cxcywh"}, "box_convention 'cxcywh' is unknown"),
        ({"content": "films"}, "content 'films' is unknown"),
        ({"answer_table": []}, "needs an answer table"),
        ({"answer_table": ["a", "b", "a"]}, "holds an answer twice"),
    ],
)
def test_shard_info_checks_itself(changes: dict[str, Any], message: str) -> None:
    good = {"split": "train", "domain": "x", "feature_extractor": "x", "answer_table": ["a"]}
    with pytest.raises(UserError, match=message):
        ShardInfo(**{**good, **changes})
