"""What a person did that cannot work, said in one sentence; the programs print it and exit with code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input or a bad option: the message names the value, the place and the way out."""

    exit_code = 2


def nearest(word: str, choices: Iterable[str]) -> str:
    """The sentence that points from a misspelt `word` to the closest of `choices`, or an empty string."""
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean '{lowered[close[0]]}'?" if close else ""
