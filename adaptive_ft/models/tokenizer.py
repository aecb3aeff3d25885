"""Which tokenizer reads the questions of a run."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.options import ModelConfig
from adaptive_ft.models.bases.reading import is_file_name, may_be_hub_id

TOKENIZER_FILE = "tokenizer_config.json"


def load_tokenizer(wanted: str | None, model: ModelConfig, shards: ShardSet) -> PreTrainedTokenizerBase:
    """The tokenizer asked for; else the one that lies with the base model; else the one the shards name.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    name = wanted
    if name is None and model.name is not None and _brings_tokenizer(model.name):
        name = model.name
    if name is not None:
        return read_tokenizer(name)
    named = shards.manifest.tokenizer_from(shards.folder)
    if named is None:
        raise UserError(
            f"Neither the base model nor the shards in '{shards.address}' name a tokenizer: give one with"
            " --data.tokenizer (a folder or a hub id)."
        )
    try:
        return read_tokenizer(named)
    except UserError as error:
        raise UserError(
            f"{error} The shards in '{shards.address}' name it; give another one with --data.tokenizer."
        ) from error


def read_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; raises UserError for one that cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # tokenizers raises nothing narrower, transformers whatever a wrong file leads to
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise UserError(f"The tokenizer '{name}' cannot be read: {kind}{' '.join(str(error).split())}") from error


def _brings_tokenizer(name: str) -> bool:
    """A hub id always may; a folder does when a tokenizer was saved in it; a file of weights never does."""
    if Path(name).is_dir():
        return (Path(name) / TOKENIZER_FILE).is_file()
    return may_be_hub_id(name) and not is_file_name(name)
