"""The base model of a run: pretrained weights from a folder, the hub or an original file, or random weights."""

from transformers import AutoConfig, PreTrainedModel

from adaptive_ft.errors import UserError, nearest
from adaptive_ft.models.bases import BASES, DEFAULT
from adaptive_ft.models.bases.options import DataFacts, Family, ModelConfig
from adaptive_ft.models.bases.reading import is_file_name, read_pretrained

__all__ = ["DataFacts", "ModelConfig", "build_base"]


def build_base(config: ModelConfig, facts: DataFacts) -> PreTrainedModel:
    """The base model in float32 with one output per answer of the data.

    Raises UserError when the family is unknown, when the checkpoint cannot be read or lacks backbone weights, and
    when it does not fit the data. Weights of the answer head that the checkpoint does not have start at random, and
    the log says so.
    """
    if config.first_layers and not is_file_name(config.name or ""):
        raise UserError(
            f"--model.first_layers is for files of the original project; --model.name is {config.name!r}: leave it out."
        )
    if config.name is None:
        if config.answers is not None:
            raise UserError(f"--model.answers '{config.answers}' names the answers of a checkpoint: give --model.name.")
        return _family(config.type or DEFAULT, facts).random(config, facts)
    if is_file_name(config.name):
        return _from_file(config, facts)
    found: str = read_pretrained(AutoConfig.from_pretrained, config.name).model_type
    wanted = config.type or found
    if config.type is None and found not in BASES:
        raise UserError(f"model '{config.name}' is of type '{found}'; a run can start from: {', '.join(BASES)}.")
    family = _family(wanted, facts)
    if wanted == found:
        return family.pretrained(config, facts)
    if found not in family.started_from:
        raise UserError(f"model '{config.name}' is of type '{found}', not '{wanted}': leave out --model.type.")
    return family.started_from[found](config, facts)


def _from_file(config: ModelConfig, facts: DataFacts) -> PreTrainedModel:
    """An original file; the original VL-BERT's end in .model."""
    wanted = config.type or ("vl_bert" if str(config.name).endswith(".model") else DEFAULT)
    read = _family(wanted, facts).original
    if read is None:
        raise UserError(f"--model.name '{config.name}' is a file; a base model of type '{wanted}' is a folder.")
    return read(config, facts)


def _family(name: str, facts: DataFacts) -> Family:
    """The family called `name`, if its models read what the data holds."""
    if name not in BASES:
        raise UserError(f"--model.type is '{name}'; it must be one of {', '.join(BASES)}.{nearest(name, BASES)}")
    family = BASES[name]
    if family.content != facts.content:
        fitting = ", ".join(other for other, found in BASES.items() if found.content == facts.content)
        raise UserError(
            f"The shards hold {facts.content}, but a base model of type '{name}' reads {family.content}: choose other"
            f" shards, or a model of type {fitting} (--model.name, or --model.type for random weights)."
        )
    return family
