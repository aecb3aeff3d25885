"""Checkpoints of the original project: read as plain tensors, and a report of what became of each weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adaptive_ft.errors import UserError
from adaptive_ft.models.torch_files import read_torch_file

STATE = "state_dict"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the original: its weights by name, and the names of the parts beside them, which are not read."""

    weights: dict[str, Tensor]
    unread: tuple[str, ...] = ()


Source = str | Path | Mapping[str, object] | Checkpoint


@dataclass(frozen=True)
class ConversionReport:
    """What became of a checkpoint: `used` (original name -> ours), `unused` original names, `missing` names of ours.

    A missing weight starts as the model initialises it. `unread` are the parts of the file beside its state dict.
    """

    used: dict[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    unread: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The three numbers, and the parts of the file that were not looked into."""
        numbers = f"{len(self.used)} weights used, {len(self.unused)} unused, {len(self.missing)} missing"
        return f"{numbers}; not read: {', '.join(self.unread)}" if self.unread else numbers

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"used: {original} -> {ours}" for original, ours in self.used.items()]
        lines += [f"unused: {original}" for original in self.unused]
        lines += [f"missing: {ours}" for ours in self.missing]
        return "\n".join(lines)


def convert(
    original: Checkpoint,
    names: Mapping[str, str],
    expected: Mapping[str, Tensor],
    source: Source,
    family: str,
) -> tuple[dict[str, Tensor], ConversionReport]:
    """The weights of `original` under `names` (original name -> ours), and the report for a model of `expected` ones.

    Raises UserError when nothing is left, and for a weight of another shape than the expected one.
    """
    weights = original.weights
    if not names:
        raise UserError(f"{place(source)} holds no weights of {family}; its names look like {sorted(weights)[:2]}.")
    for key, name in names.items():
        if weights[key].shape != expected[name].shape:
            raise UserError(
                f"weight '{key}' of {place(source)} has shape {list(weights[key].shape)}, the configuration asks for "
                f"{list(expected[name].shape)}; give the configuration of the checkpoint."
            )
    converted = {name: weights[key] for key, name in names.items()}
    unused = tuple(key for key in weights if key not in names)
    missing = tuple(name for name in expected if name not in converted)
    return converted, ConversionReport(dict(names), unused, missing, original.unread)


def read_checkpoint(source: Source) -> Checkpoint:
    """The named tensors of a file or dict, which may hold them under "state_dict" beside other parts.

    Raises UserError for a file that torch cannot read as plain tensors, and for anything that is no state dict.
    """
    if isinstance(source, Checkpoint):
        return source
    content = source if isinstance(source, Mapping) else read_torch_file(Path(source))
    unread: tuple[str, ...] = ()
    if isinstance(content, Mapping) and STATE in content:
        unread = tuple(str(key) for key in content if key != STATE)
        content = content[STATE]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{place(source)} holds no state dict, that is tensors by name.")
    weights: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"'{key}' in {place(source)} is of type {type(value).__name__}; a state dict holds tensors by name."
            )
        weights[key] = value
    return Checkpoint(weights, unread)


def place(source: Source) -> str:
    """The source in a message."""
    return "the state dict" if isinstance(source, (Mapping, Checkpoint)) else f"checkpoint '{source}'"
