"""Converted weights into a model: what an original file gives is loaded and told, what it must give is checked."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel

from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.answer_head import check_given, check_listed
from adaptive_ft.models.bases.options import ModelConfig
from adaptive_ft.models.bases.reading import check_new
from adaptive_ft.models.original_checkpoint import Checkpoint, ConversionReport, read_checkpoint

logger = logging.getLogger(__name__)

Converted = tuple[dict[str, Tensor], ConversionReport]

# A piece of a name that only files of this base model type have.
SIGNS = {"lxmert": "x_layers.", "vl_bert": "vlbert."}
# In the names of an adaptive run's frozen copies.
PARALLEL = "parallel_"


@dataclass(frozen=True)
class Form:
    """How the files of one original project become weights of ours.

    type: the base model type. renamed: original name -> ours, None for one without a place. may_be_new: how our names
    begin that a file need not give. last: how those of the answer head's last layer begin. stacks: how the names of a
    stack of layers begin, and the option that says how many there are.
    """

    type: str
    renamed: Callable[[str], str | None]
    may_be_new: tuple[str, ...]
    last: str
    stacks: Mapping[str, str]


def load_original(
    model: PreTrainedModel, config: ModelConfig, convert: Callable[[Checkpoint], Converted], form: Form
) -> None:
    """Put the original file `config.name` into `model`.

    convert: original weights -> ours, with a report. The answer head's last layer starts at random where it has
    another number of answers and `config.answers` does not say which.
    Raises UserError for a file that cannot be read, for sizes that are not the options', for layers that have no place
    in the model (unless `config.first_layers`), and for missing weights.
    """
    name = str(config.name)
    ours = model.state_dict()
    read = read_checkpoint(name)
    other_head = {key: new for key, value in read.weights.items() if (new := _of_other_head(key, value, form, ours))}
    check_listed(
        config, [(new, read.weights[key].shape, ours[new].shape) for key, new in other_head.items()], form.last
    )
    fitting = {key: value for key, value in read.weights.items() if key not in other_head}
    try:
        converted, report = convert(replace(read, weights=fitting))
    except UserError as error:
        raise UserError(f"--model.name '{name}': {error}{_other_type(form, fitting)}") from error
    check_given(config, report.missing, form.last)
    _check_depth(config, report, form)
    load_converted(model, name, converted, report, form.may_be_new)
    model.config.name_or_path = name


def load_converted(
    model: PreTrainedModel,
    name: str,
    converted: Mapping[str, Tensor],
    report: ConversionReport,
    may_be_new: tuple[str, ...],
) -> None:
    """Load the weights of checkpoint `name` into `model` and tell the report's numbers and what is new.

    Raises UserError when weights are missing whose names do not begin as `may_be_new` says.
    """
    check_new(name, report.missing, may_be_new)
    logger.warning("'%s': %s", name, report.summary)
    logger.info("%s", report)
    model.load_state_dict(converted, strict=False)


def _of_other_head(key: str, value: Tensor, form: Form, ours: Mapping[str, Tensor]) -> str | None:
    """Our name of a weight that differs from ours only in the number of answers; None for any other weight."""
    name = form.renamed(key)
    if name is None or not name.startswith(form.last) or name not in ours:
        return None
    wanted = ours[name].shape
    differs = value.dim() == len(wanted) and value.shape[0] != wanted[0] and value.shape[1:] == wanted[1:]
    return name if differs else None


def _other_type(form: Form, weights: Mapping[str, Tensor]) -> str:
    """The way out where the names are those of another base model type, or an empty string."""
    found = [kind for kind, sign in SIGNS.items() if any(sign in key for key in weights)]
    return (
        f" They are those of another base model: give --model.type {found[0]}."
        if found not in ([], [form.type])
        else ""
    )


def _check_depth(config: ModelConfig, report: ConversionReport, form: Form) -> None:
    """Refuse layers of the file that the model has no place for, or tell them if they are to be left out."""
    unused = [form.renamed(key) or "" for key in report.unused if PARALLEL not in key]
    for stack, option in form.stacks.items():
        numbers = [int(found[1]) for name in unused if (found := re.match(rf"{re.escape(stack)}(\d+)\.", name))]
        depth, wanted = max(numbers, default=-1) + 1, getattr(config, option)
        if depth <= wanted:
            continue
        where = stack.rstrip(".")
        if not config.first_layers:
            raise UserError(
                f"--model.name '{config.name}' has {depth} layers in {where}, --model.{option} is {wanted}: give"
                f" --model.{option} {depth}, or --model.first_layers true to start from its first ones."
            )
        logger.warning(
            "'%s': layers %d to %d of %d in %s are left out (--model.%s %d)",
            config.name, wanted, depth - 1, depth, where, option, wanted,
        )  # fmt: skip
