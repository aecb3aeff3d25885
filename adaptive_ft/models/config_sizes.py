"""Numbers of layers in a configuration of transformers, changed after the model was built."""

from collections.abc import Mapping
from typing import Any


def resize(config: Any, sizes: Mapping[str, int]) -> None:
    """Set numbers of layers in a model's `config`, in place, with all that its class derives from them."""
    before = vars(type(config)(**{name: getattr(config, name) for name in sizes}))
    after = vars(type(config)(**sizes))
    for name, value in after.items():
        if name in sizes or before.get(name) != value:
            setattr(config, name, value)
