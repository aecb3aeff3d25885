"""Checkpoints by name: transformers' readers with failures a person can act on, and what may be new in them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from adaptive_ft.errors import UserError
from adaptive_ft.models import torch_files
from adaptive_ft.models.bases.options import DataFacts

logger = logging.getLogger(__name__)

# How names begin that are never a hub's; data/ and runs/ are where this project's own programs write.
FOLDERS = (".", "/", "~", "data/", "runs/")
# How the files of the original projects end: LXMERT's and VL-BERT's.
FILES = (".pth", ".model")
# The last: transformers divides by sizes that it has not looked at.
UNREADABLE = (*torch_files.UNREADABLE, SafetensorError, StrictDataclassError, ArithmeticError)


def may_be_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id, a word or owner/word; anything else can only be a folder or a file.

    What would lie in a folder that is here, as runs/NAME, is a path too: asking the hub for a misspelt one takes it
    some 30 s to be told that there is no such owner, or no hub.
    """
    if name.startswith(FOLDERS) or name.endswith(("/", *FILES)) or name.count("/") > 1:
        return False
    owner, has_owner, _ = name.partition("/")
    return not (has_owner and Path(owner).is_dir())


def is_file_name(name: str) -> bool:
    """Whether `name` is a file of an original project: one that is there, or a name that ends like one."""
    return Path(name).is_file() or (name.endswith(FILES) and not Path(name).is_dir())


def refuse_missing(name: str) -> None:
    """Raise UserError for a model that can only be a folder and is none: the hub is not asked for it."""
    if not Path(name).is_dir() and not may_be_hub_id(name):
        raise UserError(f"model folder '{name}' does not exist (seen from '{Path.cwd()}').")


def read_pretrained(reader: Callable[..., Any], name: str, **options: Any) -> Any:
    """Run one of transformers' readers and turn its failures into one sentence."""
    refuse_missing(name)
    try:
        return reader(name, **options)
    except UNREADABLE as error:
        place = "folder" if Path(name).is_dir() else f"hub id (there is no such folder in '{Path.cwd()}')"
        raise UserError(f"cannot load the model '{name}', read as a {place}: {torch_files.reason_of(error)}") from error


def check_fits(name: str, found: Any, facts: DataFacts) -> None:
    """Refuse the configuration of a checkpoint that reads other regions or other words than the data has."""
    wanted = getattr(found, "visual_feat_dim", facts.visual_feat_dim)
    if wanted != facts.visual_feat_dim:
        raise UserError(
            f"model '{name}' reads region features of {wanted} values, the data has {facts.visual_feat_dim}."
        )
    if found.vocab_size != facts.vocab_size:
        raise UserError(
            f"model '{name}' has a vocabulary of {found.vocab_size} words, the tokenizer of the data has"
            f" {facts.vocab_size}."
        )


def check_report(name: str, report: Mapping[str, Any], head: str) -> None:
    """`check_new` for the loading info of transformers: only the answer head, called `head`, may be new."""
    check_new(name, sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}), (head,))


def check_new(name: str, new: Sequence[str], may_be_new: tuple[str, ...]) -> None:
    """Tell the weights that checkpoint `name` does not give; all names must begin as `may_be_new` says.

    Raises UserError for any other: random frozen weights would be worthless.
    """
    backbone = [key for key in new if not key.startswith(may_be_new)]
    if backbone:
        raise UserError(f"model '{name}' lacks {len(backbone)} weights of the backbone, for instance '{backbone[0]}'.")
    if new:
        logger.warning("Newly initialised weights, not found in '%s': %s", name, ", ".join(new))
