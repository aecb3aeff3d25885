"""Torch files read as tensors and plain containers, for a pickle could run any code; failures in one line."""

import pickle
import re
from pathlib import Path

import torch

from adaptive_ft.errors import UserError

UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError)
"""What torch raises for a file that it cannot read so."""


def read_torch_file(path: Path) -> object:
    """The content of a torch file; raises UserError for one that is missing, damaged, or holds anything else."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint '{path}' (seen from '{Path.cwd()}').")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"cannot read '{path}': {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Why a file could not be read, in one line; torch's own text is for programmers and asks to run the pickle."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds '{refused[1]}'; only tensors and plain containers are read, for a pickle could run any code."
    if isinstance(error, (EOFError, KeyError, pickle.UnpicklingError)):
        return "it is no torch file, or one that was cut off."
    return " ".join(str(error).split())
