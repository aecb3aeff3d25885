"""A forward laid over a module's own, in place: the module's class becomes a child of its class and of the overlay.

Modules, weights and their names stay, so that base checkpoints load and save unchanged, and hooks and activation
checkpointing go around the whole.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from adaptive_ft.errors import UserError
from adaptive_ft.refusals import check_own_forward

_LAID: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


class Overlay(nn.Module):
    """A forward that calls the module's own as `super().forward`; what it knows are its annotated attributes."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type, ...], dict[str, Any]]:
        return _blank, type(self).__bases__, self.__dict__


def check_bare(module: nn.Module, overlay: type[Overlay], name: str) -> None:
    """Refuse a module that `overlay` cannot be laid over; `name` is for the message.

    Raises:
        UserError: its class's forward is not what runs, or it has an attribute of the overlay's name.
    """
    check_own_forward(module, name)
    taken = sorted(attribute for attribute in overlay.__annotations__ if hasattr(module, attribute))
    if taken:
        raise UserError(
            f"{name}, a {type(module).__name__}, has an attribute '{taken[0]}' of its own, by which its gates would be"
            " found: rename it."
        )


def lay_over(module: Any, overlay: type[Overlay], **attributes: Any) -> None:
    """Let the forward of `overlay`, with these attributes, run in the place of `module`'s; `check_bare` comes first."""
    vars(module).update(attributes)
    module.__class__ = _laid_class(overlay, type(module))


def lift(module: Any) -> None:
    """Give a module that something lies over its own forward back, in place."""
    overlay, plain = type(module).__bases__
    module.__class__ = plain
    for attribute in overlay.__annotations__:
        delattr(module, attribute)


def _laid_class(overlay: type[nn.Module], plain: type[nn.Module]) -> type[nn.Module]:
    """The one class of modules of class `plain` with `overlay` over them."""
    if (overlay, plain) not in _LAID:
        _LAID[overlay, plain] = type(f"{overlay.__name__}{plain.__name__}", (overlay, plain), {})
    return _LAID[overlay, plain]


def _blank(overlay: type[nn.Module], plain: type[nn.Module]) -> nn.Module:
    """A module with something over it and without contents, for copies and pickles."""
    blank: nn.Module = nn.Module.__new__(_laid_class(overlay, plain))
    return blank
