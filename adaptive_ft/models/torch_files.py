"""Torch files read as tensors and plain containers, for a pickle could run any code; failures in one line."""

import pickle
import re
import struct
from pathlib import Path

import torch

from adaptive_ft.errors import UserError

# With words of their own: a file that cannot be opened, a broken zip, a class that is refused.
TELLING = (OSError, RuntimeError, pickle.UnpicklingError)
UNREADABLE = (*TELLING, ValueError, LookupError, AssertionError, EOFError, struct.error, TypeError, AttributeError)
"""What torch raises for files that it cannot read so: whatever their bytes lead its unpickler to."""
NO_TORCH_FILE = "it is no torch file, or a damaged one."


def read_torch_file(path: Path) -> object:
    """The content of a torch file; raises UserError for one that is missing, damaged, or holds anything else."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint '{path}' (seen from '{Path.cwd()}').")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except TELLING as error:
        raise UserError(f"cannot read '{path}': {reason_of(error)}") from error
    except UNREADABLE as error:
        raise UserError(f"cannot read '{path}': {NO_TORCH_FILE}") from error


def reason_of(error: Exception) -> str:
    """Why a file could not be read, in one line; torch's own text is for programmers and asks to run the pickle."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds '{refused[1]}'; only tensors and plain containers are read, for a pickle could run any code."
    if isinstance(error, (EOFError, struct.error, pickle.UnpicklingError)):
        return NO_TORCH_FILE
    told = " ".join(str(error).split())
    return told if isinstance(error, (OSError, RuntimeError, ValueError)) else f"{type(error).__name__}: {told}"
