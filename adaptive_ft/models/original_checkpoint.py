"""Checkpoints of the original project: read as plain tensors, and a report of what became of each weight."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adaptive_ft.errors import UserError

Source = str | Path | Mapping[str, object]


@dataclass(frozen=True)
class ConversionReport:
    """What became of a checkpoint: `used` (original name -> ours), `unused` original names, `missing` names of ours.

    A missing weight starts as the model initialises it.
    """

    used: dict[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The three numbers."""
        return f"{len(self.used)} weights used, {len(self.unused)} unused, {len(self.missing)} missing"

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"used: {original} -> {ours}" for original, ours in self.used.items()]
        lines += [f"unused: {original}" for original in self.unused]
        lines += [f"missing: {ours}" for ours in self.missing]
        return "\n".join(lines)


def convert(
    original: Mapping[str, Tensor],
    names: Mapping[str, str],
    expected: Mapping[str, Tensor],
    source: Source,
    family: str,
) -> tuple[dict[str, Tensor], ConversionReport]:
    """The weights of `original` under `names` (original name -> ours), and the report for a model of `expected` ones.

    Raises UserError when nothing is left, and for a weight of another shape than the expected one.
    """
    if not names:
        raise UserError(f"{place(source)} holds no weights of {family}; its names look like {sorted(original)[:2]}.")
    for key, name in names.items():
        if original[key].shape != expected[name].shape:
            raise UserError(
                f"weight '{key}' of {place(source)} has shape {list(original[key].shape)}, the configuration asks for "
                f"{list(expected[name].shape)}; give the configuration of the checkpoint."
            )
    converted = {name: original[key] for key, name in names.items()}
    unused = tuple(key for key in original if key not in names)
    missing = tuple(name for name in expected if name not in converted)
    return converted, ConversionReport(dict(names), unused, missing)


def read_state_dict(source: Source) -> dict[str, Tensor]:
    """The named tensors of a file or dict, which may hold them under "state_dict".

    Raises UserError for a file that torch cannot read as plain tensors, and for anything that is no state dict.
    """
    content = source if isinstance(source, Mapping) else _read(Path(source))
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{place(source)} holds no state dict, that is tensors by name.")
    weights: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"'{key}' in {place(source)} is of type {type(value).__name__}; a state dict holds tensors by name."
            )
        weights[key] = value
    return weights


def _read(path: Path) -> object:
    """The content of a torch file, tensors and plain containers only: a pickle could run any code."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint '{path}' (seen from '{Path.cwd()}').")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"cannot read '{path}' as a checkpoint of plain tensors: {reason}") from error


def place(source: Source) -> str:
    """The source in a message."""
    return "the state dict" if isinstance(source, Mapping) else f"checkpoint '{source}'"
