"""Converted weights into a model: what an original file gives is loaded and told, what it must give is checked."""

import logging
from collections.abc import Callable, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.options import ModelConfig
from adaptive_ft.models.bases.reading import check_new
from adaptive_ft.models.original_checkpoint import ConversionReport, read_state_dict

logger = logging.getLogger(__name__)

Converted = tuple[dict[str, Tensor], ConversionReport]


def load_original(
    model: PreTrainedModel,
    config: ModelConfig,
    convert: Callable[[Mapping[str, Tensor]], Converted],
    renamed: Callable[[str], str | None],
    may_be_new: tuple[str, ...],
) -> None:
    """Put the original file `config.name` into `model`.

    convert: original weights -> ours, with a report; renamed: the same for one name. may_be_new: how the names begin
    that the file need not give; the last of them is the answer head's last layer, which starts at random where it has
    another number of answers and `config.answers` does not say which.
    Raises UserError for a file that cannot be read, for sizes that are not the options', and for missing weights.
    """
    name = str(config.name)
    *_, last = may_be_new
    ours = model.state_dict()
    weights = read_state_dict(name)
    if config.answers is None:
        weights = {key: value for key, value in weights.items() if not _is_other_head(renamed(key), value, last, ours)}
    try:
        converted, report = convert(weights)
    except UserError as error:
        raise UserError(f"--model.name '{name}': {error}") from error
    load_converted(model, name, converted, report, may_be_new)


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
    model.config.name_or_path = name


def _is_other_head(name: str | None, value: Tensor, last: str, ours: Mapping[str, Tensor]) -> bool:
    """Whether a weight belongs to the last layer of a head for another number of answers."""
    return name is not None and name.startswith(last) and name in ours and len(value) != len(ours[name])
