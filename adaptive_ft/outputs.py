"""What an adapted model returns: the output of its base with two fields more.

They are fields of a class, and not keys added to an output of the base's class, because what takes outputs apart and
puts them together again (DistributedDataParallel, torch.utils._pytree) knows fields only.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


def with_gates(output: ModelOutput, gates_BD: Tensor, logits_BD2: Tensor | None) -> ModelOutput:
    """`output` as an instance of a subclass of its own class, with `gates` [B, D] and `policy_logits` [B, D, 2]."""
    return _made(type(output), {**output, "gates": gates_BD, "policy_logits": logits_BD2})


@functools.cache
def _extended(kind: Any) -> Any:
    """The subclass of the dataclass `kind` that has the two fields."""
    fields = [(name, Tensor | None, dataclasses.field(default=None)) for name in ("gates", "policy_logits")]
    # A class made at run time has no place that pickle could find it at.
    namespace = {"__reduce__": lambda output: (_made, (kind, dict(output)))}
    return dataclasses.make_dataclass(f"Adaptive{kind.__name__}", fields, bases=(kind,), namespace=namespace)


def _made(kind: Any, values: Mapping[str, Any]) -> ModelOutput:
    made: ModelOutput = _extended(kind)(**values)
    return made
