"""The two files of an adapted model: `adaptive_config.json` and `adaptive_model.safetensors`.

Only what was learned is written (deltas, policy, head, parts that always train), what is inside the layers under
the ids of its leaves. The frozen half is named by a hash, so that loading onto another base model is an error and not
a bad score.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import whole_file, write_whole

CONFIG_FILE = "adaptive_config.json"
WEIGHTS_FILE = "adaptive_model.safetensors"
# 1, without a number: weights inside the layers went by their names in the model.
FORMAT = 2
# Where a run of train.py keeps its models (run_folder.py, engine/checkpoint.py): the better pointer first.
RUN_CONFIG, RUN_CHECKPOINTS, RUN_POINTERS, RUN_MODEL = "config.yaml", "checkpoints", ("best", "latest"), "adaptive"
# Characters of a wrong entry that its refusal shows.
SHOWN = 60


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(type(entry) is kind for entry in value)


def _is_base(value: object) -> bool:
    """Whether this is what `record_of` writes down; a model of no library has no configuration."""
    texts = ("library", "class", "name", *(("dtype",) if isinstance(value, dict) and "config" in value else ()))
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in texts)
        and isinstance(value.get("config", {}), dict)
        and isinstance(value.get("revision"), str | None)
    )


# Entry of the description -> what it must be, in words and as a test.
ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "base_model": (
        "an object with library, class and name (and dtype with config), all texts, and revision, a text or null",
        _is_base,
    ),
    "adaptive": ("an object of options", lambda value: isinstance(value, dict)),
    "frozen_sha256": ("a text, or null where nothing stays frozen", lambda value: isinstance(value, str | None)),
    "decisions": ("a list of names", lambda value: _is_list_of(str, value)),
    "global_decisions": (
        "null or a list of 0 and 1",
        lambda value: value is None or (_is_list_of(int, value) and set(value) <= {0, 1}),
    ),
}


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
    write_description(folder, {**description, "weights_sha256": hash_weights(saved)})


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write `adaptive_config.json` alone, with the package version and the number of the format."""
    stamped = {"version": version("adaptive-ft"), "format": FORMAT, **description}
    write_whole(folder / CONFIG_FILE, json.dumps(stamped, indent=2) + "\n")


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files. Raises UserError when one is missing, damaged, or they do not belong together."""
    description = read_description(folder)
    file = _present(folder, WEIGHTS_FILE)
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise UserError(f"the saved adaptive model in '{folder}' is damaged: {error}") from error
    if description.get("weights_sha256") != hash_weights(weights):
        raise UserError(f"{CONFIG_FILE} and {WEIGHTS_FILE} in '{folder}' do not belong to the same save.")
    return description, weights


def read_description(folder: Path) -> dict[str, Any]:
    """Read `adaptive_config.json` alone, without the weights.

    Raises UserError when it is missing, damaged, or of another format than this version writes.
    """
    file = _present(folder, CONFIG_FILE)
    try:
        description: dict[str, Any] = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"the saved adaptive model in '{folder}' is damaged: {error}") from error
    if not isinstance(description, dict):
        raise UserError(f"the saved adaptive model in '{folder}' is damaged: {CONFIG_FILE} holds no options.")
    found = description.get("format", 1)
    if found != FORMAT:
        raise UserError(
            f"the adaptive model in '{folder}' was saved in format {found} by version {description.get('version')}; "
            f"this version reads format {FORMAT}: load it with that version, or train it again."
        )
    return description


def check_entries(description: Mapping[str, Any], folder: Path, names: Sequence[str] = tuple(ENTRIES)) -> None:
    """Refuse a description, as read from `folder`, that lacks one of the entries `names` or has one of another kind."""
    file = folder / CONFIG_FILE
    for name in names:
        kind, fits = ENTRIES[name]
        if name not in description:
            raise UserError(f"'{file}' has no '{name}': take the file as save_pretrained wrote it, or save again.")
        if not fits(description[name]):
            found = json.dumps(description[name])
            found = found if len(found) <= SHOWN else f"{found[:SHOWN]}..."
            raise UserError(f"'{file}': '{name}' is {found}; it must be {kind}.")


def _present(folder: Path, name: str) -> Path:
    """The path of one of the two files, which must be there."""
    if not (folder / name).is_file():
        raise UserError(f"'{folder}' is not a saved adaptive model: {name} is missing{_way_out(folder)}.")
    return folder / name


def _way_out(folder: Path) -> str:
    """Where the saved model is, if `folder` is that of a run of train.py, of its checkpoints or of one of these."""
    tagged = [
        checkpoints / (checkpoints / pointer).read_text(encoding="utf-8").strip()
        for checkpoints in (folder / RUN_CHECKPOINTS, folder)
        for pointer in RUN_POINTERS
        if (checkpoints / pointer).is_file()
    ]
    for place in (*tagged, folder):
        if (place / RUN_MODEL / CONFIG_FILE).is_file():
            return f"; give '{place / RUN_MODEL}', which this run saved"
    if (folder / RUN_CONFIG).is_file():
        return "; it is the folder of a run of train.py that has no checkpoint yet"
    return ""


def load_exactly(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the tensors `expected`; names and shapes must be the same, no more and no fewer."""
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
    with torch.no_grad():
        for name, value in weights.items():
            expected[name].copy_(value)
