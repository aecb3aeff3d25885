"""The two files of an adapted model: `adaptive_config.json` and `adaptive_model.safetensors`.

Only what was learned is written (deltas, policy, head, parts that always train). The frozen half is named
by a hash, so that loading onto another base model is an error and not a bad score.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptive_ft.errors import UserError

CONFIG_FILE = "adaptive_config.json"
WEIGHTS_FILE = "adaptive_model.safetensors"


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of `weights`, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # A view as bytes: numpy has no bfloat16.
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_files(folder: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files, each under a temporary name first, so that neither is ever seen half-written.

    The description also gets the package version and the hash of the weights, which ties the two files
    together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with whole_file(folder / WEIGHTS_FILE) as partial:
        save_file(saved, partial, metadata={"format": "pt"})
    stamped = {"version": version("adaptive-ft"), **description, "weights_sha256": hash_weights(saved)}
    with whole_file(folder / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(stamped, indent=2) + "\n")


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files. Raises UserError when one is missing, damaged, or they do not belong together."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"'{folder}' is not a saved adaptive model: {name} is missing.")
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
        weights = load_file(folder / WEIGHTS_FILE)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"the saved adaptive model in '{folder}' is damaged: {error}") from error
    if description.get("weights_sha256") != hash_weights(weights):
        raise UserError(f"{CONFIG_FILE} and {WEIGHTS_FILE} in '{folder}' do not belong to the same save.")
    return description, weights


def load_exactly(model: nn.Module, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Load `weights` into `model`; names and shapes must be those of `expected`, no more and no fewer."""
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        raise UserError(
            f"the saved weights do not fit the model: {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}."
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise UserError(
                f"saved weight '{name}' has shape {list(value.shape)}; the model needs {list(expected[name].shape)}."
            )
    model.load_state_dict(weights, strict=False)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there when the writing has succeeded."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
