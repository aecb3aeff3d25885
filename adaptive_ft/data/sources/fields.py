"""What an entry of a JSON file holds under a name, in the type it must have; ValueError says what stands there."""

import math
from typing import Any

_SHOWN = 60


def text(entry: Any, name: str) -> str:
    """The text called `name`."""
    return as_text(_value(entry, name), f"'{name}'")


def text_or_empty(entry: Any, name: str) -> str:
    """The text called `name`, empty where it is missing or null."""
    return text(entry, name) if entry.get(name) is not None else ""


def whole_number(entry: Any, name: str) -> int:
    """The number called `name`, which may be written as a text of digits."""
    return as_whole_number(_value(entry, name), f"'{name}'")


def image_id(entry: Any, name: str) -> str:
    """The image's name: a text, or a number, which other files write as a text."""
    value = _value(entry, name)
    return str(value) if _is_whole(value) else as_text(value, f"'{name}'")


def as_text(value: Any, what: str) -> str:
    """`value`, which messages call `what`, if it is a text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise _other(value, what, "a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half a character (a lone surrogate)") from None
    return value


def as_whole_number(value: Any, what: str) -> int:
    """`value`, which messages call `what`, if it is a whole number or a text of digits."""
    if not (_is_whole(value) or (isinstance(value, str) and value.isascii() and value.isdigit())):
        raise _other(value, what, "a whole number")
    return int(value)


def as_number(value: Any, what: str) -> float:
    """`value`, which messages call `what`, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _other(value, what, "a number")
    return value


def as_object(value: Any, what: str) -> dict[str, Any]:
    """`value`, which messages call `what`, if it is an object of names and values."""
    if not isinstance(value, dict):
        raise _other(value, what, "an object")
    return value


def as_list(value: Any, what: str) -> list[Any]:
    """`value`, which messages call `what`, if it is a list."""
    if not isinstance(value, list):
        raise _other(value, what, "a list")
    return value


def _value(entry: Any, name: str) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"{_shown(entry)} is no object with '{name}'")
    if name not in entry:
        raise ValueError(f"key '{name}' is missing")
    return entry[name]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _other(value: Any, what: str, expected: str) -> ValueError:
    return ValueError(f"{what} is {_shown(value)}, expected {expected}")


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN]
